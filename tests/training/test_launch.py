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
from processes import run_python, start_python
from projects import ROOT
from runs import assert_close, assert_same, weights
from servers import free_port

from budwood.corpus.packing import PackedCorpus
from budwood.models.device import Compute, choose_compute
from budwood.pipelines.tracking import open_workspace, track
from budwood.study import devices
from budwood.study.choice import BriefTraining
from budwood.study.stage import no_tracking
from budwood.study.training import TrainArm
from budwood.training import checks, launch
from budwood.training.cache import write_cache
from budwood.training.curve import read_curve
from budwood.training.launch import run_command, run_job
from budwood.training.order import training_order
from budwood.training.run import TrainingStoppedError, train
from budwood.training.settings import ArmSettings, DistillationSettings, Engine
from budwood.training.teacher import cache_facts, open_live_teacher

PATIENCE = 900
"""Seconds for two agents: a busy machine is slow, not wrong."""
FORKED = {"PYTHON_EXEC": str(ROOT / "tests/forked_python.py")}
"""Variables by which torchrun forks its workers, which then import no library; interpreters are real."""
TWO = "torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 --max-restarts 2"
OBJECTIVES = {
    "next token": None,
    "live": DistillationSettings(),
    "cached": DistillationSettings(loss="sampled", num_samples=8, teacher="cached"),
}


@pytest.fixture(autouse=True)
def _here_alone(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


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


@pytest.mark.slow
def test_without_a_launcher_this_process_trains(make_job, monkeypatch):
    monkeypatch.setattr(launch, "run_command", lambda *_: pytest.fail("launched"))
    job = make_job(tokens=1)
    assert run_job(job, lambda *_: None, {}).steps == 1


@pytest.mark.slow
def test_a_finished_job_is_not_launched_again(make_job, monkeypatch):
    monkeypatch.setattr(launch, "run_command", lambda *_: pytest.fail("launched"))
    job = make_job(tokens=1)
    result = train(job)
    told = []
    again = job.model_copy(update={"engine": Engine(launcher=TWO, compile_loss="off")})
    assert run_job(again, lambda metrics, _: told.append(metrics), {}) == result
    assert told


@pytest.mark.slow
def test_that_training_diverges_is_known_from_other_processes_too(make_job):
    job = make_job(engine=Engine(launcher=FORKED["PYTHON_EXEC"], compile_loss="off")).model_copy(
        update={"learning_rate": 1e6}
    )
    with pytest.raises(FloatingPointError, match="the run diverges"):
        run_job(job, no_tracking, FORKED)
    assert (job.output_folder / launch.VERDICTS[FloatingPointError]).is_file()


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


@pytest.mark.parametrize(("kind", "name"), launch.VERDICTS.items())
def test_what_no_restart_helps_is_not_restarted(make_job, kind, name, monkeypatch):
    """Such as a job that a process refuses; the launcher stands for one that would start it again for ever."""
    monkeypatch.setattr(launch, "_SECONDS_BETWEEN_LOOKS", 0.05)
    folder = make_job().output_folder
    script = "import time; from budwood.records.files import write_atomically as write; from pathlib import Path; "
    script += f"write(Path({str(folder / name)!r}), 'no node has it'); time.sleep(600)"
    job = make_job(engine=Engine(launcher=f'{sys.executable} -c "{script}"', compile_loss="off"))
    begun = time.monotonic()
    with pytest.raises(kind, match=r"^no node has it$"):
        run_job(job, kills.hold, {})
    assert time.monotonic() - begun < 300


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
def test_a_run_killed_for_real_goes_on_as_if_nothing_had_happened(make_job, tmp_path):
    """SIGKILL in the fifth of six steps; checkpoints stand at 2 and 4, and another process goes on. Bit for bit.

    Objectives are interrupted in `test_resume`.
    """
    fields = towards("cached", make_job, tmp_path / "cache")
    whole, killed = (make_job(name, **fields) for name in ("whole", "killed"))
    train(whole)
    file, environment = write(killed), {"KILL_MARK": str(tmp_path / "mark"), "KILL_STEP": "5"}
    assert start(file, "kills:kill_once", **environment).wait() == -signal.SIGKILL
    assert not (killed.output_folder / "result.json").exists()
    assert start(file, "kills:kill_once", **environment).wait() == 0
    assert_same(killed, whole)


def run_ranks(arguments, tmp_path, files=(), **environment):
    """Run two processes to their end as a launcher starts them, and return how they ended and what they said.

    They are forked from one that has imported torch. Each may have a job file of its own as its last argument.
    """
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = []
    for rank in (0, 1):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} | environment
        (tmp_path / f"rank-{rank}").mkdir()
        given = [*arguments, *files[rank : rank + 1]]
        ranks.append(start_python(given, Path.cwd(), os.environ | shared | own, tmp_path / f"rank-{rank}"))
    statuses = [rank.wait(PATIENCE) for rank in ranks]
    return statuses, "".join((tmp_path / f"rank-{rank}/stderr").read_text() for rank in (0, 1))


def assert_learned_together(together, alone):
    """Assert that two processes learned what one does, to rounding."""
    assert_close(together, alone, 1e-4)
    ours, expected = weights(together), weights(alone)
    assert all(torch.allclose(ours[name], one, rtol=0, atol=1e-5) for name, one in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["next token", "cached"])
def test_two_processes_make_the_run_of_one(make_job, tmp_path, objective):
    fields = {"micro_batch": 2, **towards(objective, make_job, tmp_path / "cache")}
    alone, together = (make_job(name, **fields) for name in ("alone", "together"))
    train(alone)
    statuses, said = run_ranks(["-m", "budwood.training", str(write(together))], tmp_path)
    assert statuses == [0, 0], said[-2000:]
    assert json.loads((together.output_folder / "result.json").read_text())["tokens"] == 576
    assert_learned_together(together, alone)


@pytest.mark.slow
@pytest.mark.usefixtures("own_mlflow")
def test_so_does_a_launcher_whose_killed_process_restarts(make_job, tmp_path, monkeypatch):
    """With a live teacher; to the last bit with a rank killed or not. MLflow gets every loss."""
    fields = {"micro_batch": 2, **towards("live", make_job, tmp_path / "cache")}
    alone, together, killed = (make_job(name, **fields) for name in ("alone", "together", "killed"))
    train(alone)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    command = ["-m", "budwood.training", str(write(together)), "--track", f"{track.__module__}:{track.__name__}"]
    with mlflow.start_run() as run:
        statuses, said = run_ranks(command, tmp_path, **open_workspace(tmp_path).environment)
    assert statuses == [0, 0], said[-2000:]
    assert_learned_together(together, alone)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (row["step"], row["train_loss"]) for row in read_curve(together.output_folder) if "train_loss" in row
    ]
    monkeypatch.setenv("KILL_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("KILL_STEP", "5")
    launched = killed.model_copy(update={"engine": Engine(launcher=TWO, compile_loss="off")})
    assert run_job(launched, kills.kill_once, FORKED).tokens == 576
    assert (tmp_path / "mark").exists()
    assert_same(killed, together)


def start_agent(job_file, port, said, **environment):
    """Start what a launcher starts on one of two nodes, both this machine; what it says goes to a folder."""
    command = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=study"]
    # A lost node is noticed after 15 seconds otherwise.
    command += ["--rdzv-conf=keep_alive_interval=1,keep_alive_max_attempt=3"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1"]
    command += ["--max-restarts=3", "-m", "budwood.training", str(job_file), "--track", "kills:hold"]
    said.mkdir()
    own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} | environment
    return start_python(command, Path.cwd(), os.environ | own, said)


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
    first = start_agent(file, port, said[0], KILL_MARK=str(mark), **FORKED)
    wait_for_port(port)  # the first keeps what the agents know of each other
    lost = start_agent(file, port, said[1], KILL_MARK=str(mark), **FORKED)
    wait_until(lambda: mark.exists() and mark.read_text().isdigit() and int(mark.read_text()) >= 5, PATIENCE)
    lost.kill()
    assert lost.wait() == -signal.SIGKILL
    assert not (together.output_folder / "result.json").exists()
    replaced = start_agent(file, port, said[2], KILL_MARK=str(mark), **FORKED)
    assert [agent.wait(PATIENCE) for agent in (first, replaced)] == [0, 0], (said[0] / "stderr").read_text()[-2000:]
    assert not processes_of(file)
    assert_learned_together(together, alone)


@pytest.mark.slow
def test_processes_that_disagree_on_the_job_are_refused(make_job, tmp_path):
    """Such as those of a node whose files are older."""
    job = make_job("one", micro_batch=2)
    files = write(job), job.output_folder / "older.json"
    files[1].write_text(job.model_copy(update={"learning_rate": 0.5}).model_dump_json())
    statuses, said = run_ranks(["-m", "budwood.training"], tmp_path, files=list(map(str, files)))
    assert statuses == [1, 1]
    sentences = [line for line in said.splitlines() if line and not line.startswith("Loading weights")]
    verdict = (job.output_folder / launch.VERDICTS[ValueError]).read_text()
    assert "process 1 on" in verdict
    assert "has another job than process 0" in verdict
    assert "give every node the same data folder and the same budwood" in verdict
    assert sentences == [verdict] * 2, said


@pytest.mark.slow
def test_a_node_without_the_data_folder_is_told_in_a_sentence(tmp_path):
    done = run_python(["-m", "budwood.training", str(tmp_path / "nowhere/job.json")], Path.cwd(), os.environ)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("every node needs the data folder, under the same path")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["more processes than devices", "no device at all", "no device for finalists"])
def test_a_launcher_without_devices_is_refused(make_job, monkeypatch, how):
    if how != "more processes than devices":
        measurement = SimpleNamespace(device="auto", hardware=("auto", "float32"), heldout=1)
        monkeypatch.setattr(devices, "choose_compute", lambda *_: choose_compute("cpu", "float32"))
        conditions = SimpleNamespace(engine=Engine(launcher=TWO), measurement=measurement)
        declare = {
            "no device at all": lambda: TrainArm.of("x", None, (None, None), conditions, ArmSettings()),
            "no device for finalists": lambda: BriefTraining.of(512, conditions),
        }
        with pytest.raises(ValueError, match=r"engine.launcher starts .* this machine has no accelerator: name"):
            declare[how]()
        return
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setattr(checks, "choose_compute", lambda *_: Compute(torch.device("cuda"), "float32"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"^engine.launcher: more processes \(8\) than devices \(2\) on"):
        checks.check_job(make_job())


@pytest.mark.slow
def test_a_process_ends_with_its_launcher(make_job, tmp_path):
    """Also with one that is killed. Both are real interpreters."""
    mark, file = tmp_path / "mark", write(make_job(tokens=1000 * 8 * 12))
    command = [sys.executable, "-m", "budwood.training", str(file), "--track", "kills:hold"]
    starting = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *command]
    launcher = subprocess.Popen(starting, env=os.environ | {"KILL_MARK": str(mark)})
    wait_until(lambda: mark.exists() and mark.read_text() not in {"", "0"})
    assert len(processes_of(file)) == 2
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not processes_of(file))


@pytest.mark.slow
@pytest.mark.parametrize(("how", "num_ranks"), [(signal.SIGKILL, 2), (signal.SIGTERM, 1)])
def test_nothing_outlives_whoever_started_it(make_job, tmp_path, how, num_ranks):
    """Neither the launcher nor its processes."""
    mark = tmp_path / "mark"
    launcher = TWO.replace("--nproc-per-node 2", f"--nproc-per-node {num_ranks}")
    job = make_job(tokens=1000 * 8 * 12, micro_batch=4, engine=Engine(launcher=launcher, compile_loss="off"))
    file = write(job)
    script = (
        "import sys, kills; from budwood.training.job import TrainingJob; from budwood.training.launch import run_job\n"
        "run_job(TrainingJob.model_validate_json(open(sys.argv[1]).read()), kills.hold, {})"
    )
    parent = start_python(["-c", script, str(file)], Path.cwd(), os.environ | FORKED | {"KILL_MARK": str(mark)})
    wait_until(lambda: mark.exists() and mark.read_text() not in {"", "0"})
    assert len(processes_of(file)) == 1 + num_ranks  # torchrun and what it started
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
    script = f"import runpy; runpy.run_path({str(Path(__file__).with_name('sharded.py'))!r}, run_name='__main__')"
    statuses, said = run_ranks(["-c", script, str(file), through, str(output)], tmp_path)
    assert statuses == [0, 0], said[-2000:]
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
