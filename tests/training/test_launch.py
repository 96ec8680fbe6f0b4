"""A run in other processes is the run in this one, survives a kill, and never outlives whoever started it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import kills
import mlflow
import pytest
import torch
from processes import start_python
from projects import ROOT
from safetensors.torch import load_file

from budwood.corpus.packing import PackedCorpus
from budwood.models.device import Compute, choose_compute
from budwood.pipelines.tracking import open_workspace, track
from budwood.study import training
from budwood.training import launch, run
from budwood.training.cache import write_cache
from budwood.training.curve import read_curve
from budwood.training.launch import run_command, run_job
from budwood.training.order import training_order
from budwood.training.run import TrainingStoppedError, train
from budwood.training.settings import ArmSettings, DistillationSettings, Engine
from budwood.training.teacher import cache_facts, open_live_teacher

PATIENCE = 900
"""Seconds for two agents: a busy machine is slow, not wrong."""
TWO = "torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 --max-restarts 2"
OBJECTIVES = {
    "next token": None,
    "live": DistillationSettings(),
    "cached": DistillationSettings(loss="sampled", num_samples=8, teacher="cached"),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)


@pytest.fixture(autouse=True)
def _here_alone(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def weights(job):
    return load_file(job.output_folder / "model" / "model.safetensors")


def towards(objective, make_job, cache):
    """Return the fields of a job with an objective; what a cached teacher says is written first."""
    settings = OBJECTIVES[objective]
    if objective != "cached":
        return {"distillation": settings}
    job = make_job()
    corpus = PackedCorpus.open(job.corpus_folder)
    teacher = open_live_teacher(job.teacher_folder, settings, choose_compute("cpu", "float32"))
    facts = cache_facts(job.teacher_folder, corpus, job.schedule.sequence_length, settings)
    write_cache(cache, teacher.entries, corpus, training_order(corpus, job.schedule), facts, batch_size=8)
    return {"distillation": settings, "cache_folder": cache}


def write(job):
    job.output_folder.mkdir(parents=True)
    file = job.output_folder / "job.json"
    file.write_text(job.model_dump_json())
    return file


def start(job_file, track_name, **environment):
    command = ["-m", "budwood.training", str(job_file), "--track", track_name]
    return start_python(command, Path.cwd(), os.environ | environment)


def processes_of(job_file):
    """Return the processes whose command names a job."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(job_file).encode() in words:
            found.append(int(process.name))
    return found


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_without_a_launcher_this_process_trains(make_job, monkeypatch):
    monkeypatch.setattr(launch, "run_command", lambda *_: pytest.fail("launched"))
    job = make_job(tokens=1)
    assert run_job(job, lambda *_: None, {}).steps == 1


def test_a_finished_job_is_not_launched_again(make_job, monkeypatch):
    monkeypatch.setattr(launch, "run_command", lambda *_: pytest.fail("launched"))
    job = make_job(tokens=1)
    result = train(job)
    told = []
    again = job.model_copy(update={"engine": Engine(launcher=TWO, compile_loss="off")})
    assert run_job(again, lambda metrics, _: told.append(metrics), {}) == result
    assert told


def test_a_launcher_gets_the_job_and_an_environment_without_traces_of_other_ranks(make_job, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("NODES", "2")
    seen = make_job().output_folder / "seen.json"
    note = f"open({str(seen)!r}, 'w').write(json.dumps([sys.argv, dict(os.environ)]))"
    probe = f"import json, os, sys; {note}; sys.exit(7)"
    job = make_job(engine=Engine(launcher=f'{sys.executable} -c "{probe}" --nodes $NODES', compile_loss="off"))
    with pytest.raises(RuntimeError, match=r"ended with status 7; .* continues from the newest checkpoint in"):
        run_job(job, kills.hold, {"MLFLOW_RUN_ID": "abc"})
    arguments, environment = json.loads(seen.read_text())
    file = str(job.output_folder / "job.json")
    assert arguments[1:] == ["--nodes", "2", "-m", "budwood.training", file, "--track", "kills:hold"]
    assert "RANK" not in environment
    assert environment["MLFLOW_RUN_ID"] == "abc"
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert environment["PATH"].startswith(str(Path(sys.executable).parent))


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_launcher(tmp_path, how):
    mark = tmp_path / "ended"
    script = (
        f"import os, signal, time\nsignal.signal(signal.SIGTERM, lambda *_: (open({str(mark)!r}, 'w'), os._exit(0)))\n"
        f"os.kill(os.getppid(), signal.{how})\ntime.sleep(60)"
    )
    with pytest.raises(TrainingStoppedError, match="stopped by SIGTERM or Ctrl-C"):
        run_command([sys.executable, "-c", script], {})
    assert mark.exists()


@pytest.mark.slow
@every_objective
def test_a_run_killed_for_real_goes_on_as_if_nothing_had_happened(make_job, tmp_path, objective):
    """SIGKILL in the fifth of six steps; checkpoints stand at 2 and 4, and another process goes on. Bit for bit."""
    fields = towards(objective, make_job, tmp_path / "cache")
    whole, killed = (make_job(name, **fields) for name in ("whole", "killed"))
    train(whole)
    file, environment = write(killed), {"KILL_MARK": str(tmp_path / "mark"), "KILL_STEP": "5"}
    assert start(file, "kills:kill_once", **environment).wait() == -signal.SIGKILL
    assert not (killed.output_folder / "result.json").exists()
    assert start(file, "kills:kill_once", **environment).wait() == 0
    assert read_curve(killed.output_folder) == read_curve(whole.output_folder)
    one, other = weights(killed), weights(whole)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.usefixtures("own_mlflow")
@every_objective
def test_two_processes_make_the_run_of_one_and_a_killed_one_restarts(make_job, tmp_path, monkeypatch, objective):
    """Equal to rounding in two processes as in one; to the last bit with a rank killed or not."""
    fields = {"micro_batch": 2, **towards(objective, make_job, tmp_path / "cache")}
    engine = Engine(launcher=TWO, compile_loss="off")
    alone, together, killed = (make_job(name, **fields) for name in ("alone", "together", "killed"))
    train(alone)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run() as run:
        result = run_job(together.model_copy(update={"engine": engine}), track, open_workspace(tmp_path).environment)
    assert result.tokens == 576
    curve, other_weights = read_curve(together.output_folder), weights(together)
    for row, expected in zip(curve, read_curve(alone.output_folder), strict=True):
        assert row.keys() == expected.keys()
        assert all(row[name] == pytest.approx(expected[name], rel=1e-4) for name in row)
    assert all(torch.allclose(other_weights[name], one, rtol=0, atol=1e-5) for name, one in weights(alone).items())
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (row["step"], row["train_loss"]) for row in curve if "train_loss" in row
    ]
    if objective != "live":  # how a rank is killed and restarted does not depend on it
        return
    monkeypatch.setenv("KILL_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("KILL_STEP", "5")
    run_job(killed.model_copy(update={"engine": engine}), kills.kill_once, {})
    assert (tmp_path / "mark").exists()
    assert read_curve(killed.output_folder) == curve
    assert all(torch.equal(other_weights[name], one) for name, one in weights(killed).items())


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def start_agent(job_file, port, said, restarts=3, **environment):
    """Start what a launcher starts on one of two nodes, both this machine; what it says goes to a file."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=study"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1"]
    command += [f"--max-restarts={restarts}", "-m", "budwood.training", str(job_file), "--track", "kills:hold"]
    own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} | environment
    with said.open("w") as stderr:
        return subprocess.Popen(command, env=os.environ | own, stderr=stderr)


def wait_for_port(port):
    def listens():
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, PATIENCE)


@pytest.mark.slow
def test_two_nodes_make_the_run_of_one_process_and_a_lost_one_is_replaced(make_job, tmp_path):
    """The second agent and its process are killed; another agent takes their place, and nothing is left running."""
    fields = {"micro_batch": 2, "tokens": 20 * 8 * 12, "checkpoint_steps": 2}
    alone, together = (make_job(name, **fields) for name in ("alone", "together"))
    train(alone)
    file, port, mark = write(together), free_port(), tmp_path / "mark"
    said = [tmp_path / name for name in ("first", "lost", "replaced")]
    first = start_agent(file, port, said[0], KILL_MARK=str(mark))
    wait_for_port(port)  # the first keeps what the agents know of each other
    lost = start_agent(file, port, said[1], KILL_MARK=str(mark))
    wait_until(lambda: mark.exists() and mark.read_text().isdigit() and int(mark.read_text()) >= 5, PATIENCE)
    lost.kill()
    lost.wait()
    assert not (together.output_folder / "result.json").exists()
    replaced = start_agent(file, port, said[2], KILL_MARK=str(mark))
    assert [agent.wait(PATIENCE) for agent in (first, replaced)] == [0, 0], said[0].read_text()[-2000:]
    assert not processes_of(file)
    for row, expected in zip(read_curve(together.output_folder), read_curve(alone.output_folder), strict=True):
        assert all(row[name] == pytest.approx(expected[name], rel=1e-4) for name in expected)
    one, other = weights(alone), weights(together)
    assert all(torch.allclose(other[name], one[name], rtol=0, atol=1e-5) for name in one)


@pytest.mark.slow
def test_processes_that_disagree_on_the_job_are_refused(make_job, tmp_path):
    """Such as those of a node whose files are older."""
    job = make_job("one", micro_batch=2)
    files = write(job), job.output_folder / "older.json"
    files[1].write_text(job.model_copy(update={"learning_rate": 0.5}).model_dump_json())
    port, mark = free_port(), str(tmp_path / "mark")
    said = [tmp_path / name for name in ("first", "second")]
    agents = [start_agent(file, port, told, restarts=0, KILL_MARK=mark) for file, told in zip(files, said, strict=True)]
    assert all(agent.wait(PATIENCE) for agent in agents)
    text = "".join(told.read_text() for told in said)
    assert "has another job than process 0" in text
    assert "give every node the same data folder and the same budwood" in text


def test_a_node_without_the_data_folder_is_told_in_a_sentence(tmp_path):
    command = [sys.executable, "-m", "budwood.training", str(tmp_path / "nowhere/job.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("every node needs the data folder, under the same path")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["more processes than devices", "no device at all"])
def test_a_launcher_without_devices_is_refused(make_job, monkeypatch, how):
    if how == "no device at all":
        engine, measurement = Engine(launcher=TWO), SimpleNamespace(device="auto", precision="float32", heldout=1)
        monkeypatch.setattr(training, "choose_compute", lambda *_: choose_compute("cpu", "float32"))
        conditions = SimpleNamespace(engine=engine, measurement=measurement)
        with pytest.raises(ValueError, match=r"engine.launcher starts .* this machine has no accelerator: name"):
            training.TrainArm.of("x", None, (None, None), conditions, ArmSettings())
        return
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setattr(run, "choose_compute", lambda *_: Compute(torch.device("cuda"), "float32"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"engine.launcher started 8 processes on .*, which has 2 devices: start one"):
        run.check_job(make_job())


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_whoever_started_it(make_job, tmp_path, how):
    mark = tmp_path / "mark"
    job = make_job(tokens=1000 * 8 * 12, micro_batch=4, engine=Engine(launcher=TWO, compile_loss="off"))
    file = write(job)
    script = (
        "import sys, kills; from budwood.training.job import TrainingJob; from budwood.training.launch import run_job\n"
        "run_job(TrainingJob.model_validate_json(open(sys.argv[1]).read()), kills.hold, {})"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(file)], env=os.environ | {"KILL_MARK": str(mark)})
    wait_until(lambda: mark.exists() and mark.read_text() not in {"", "0"})
    assert len(processes_of(file)) == 4  # the parent, torchrun and two ranks
    parent.send_signal(how)
    assert parent.wait() != 0
    wait_until(lambda: not processes_of(file))
    if how is signal.SIGTERM:
        assert list(job.output_folder.glob("checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize("through", ["torch", "accelerate"])
def test_weights_shared_out_learn_the_same(make_job, tmp_path, through):
    """Native `fully_shard`; and the Trainer's own way, with accelerate's refusal to shard on a CPU lifted."""
    job = make_job("whole", micro_batch=4)
    train(job)
    shared = make_job("shared", micro_batch=4)
    file, output = write(shared), tmp_path / "output.json"
    script = Path(__file__).with_name("sharded.py")
    command = [sys.executable, "-m", "torch.distributed.run", *TWO.split()[1:], str(script)]
    status = run_command([*command, str(file), through, str(output)], {})
    assert status == 0
    told = json.loads(output.read_text())
    assert told["kind"] == "DTensor"
    assert told["local"] == [-(-told["whole"][0] // 2), *told["whole"][1:]]
    expected = read_curve(job.output_folder)
    losses = [row["train_loss"] for row in expected if "train_loss" in row]
    heldout = [row["heldout_loss"] for row in expected if "heldout_loss" in row]
    assert told["losses"] == pytest.approx(losses, rel=1e-4)
    assert told["heldout"] == pytest.approx(heldout, rel=1e-4)
    if through == "accelerate":
        one, other = weights(shared), weights(job)
        assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-5) for name in one)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_accelerate_shards_where_there_is_a_gpu(make_job):
    launcher = "torchrun --standalone --nproc-per-node auto"
    job = make_job(device="cuda", engine=Engine(launcher=launcher, sharding=True))
    assert run_job(job, kills.hold, {"KILL_MARK": str(job.output_folder / "mark")})["tokens"] == 576
