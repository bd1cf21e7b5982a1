"""Train each objective by one process, and by two that are killed in step 10 and resumed.

    python tests/training/ranks.py FOLDER MOLECULES.sdf

leaves the runs FOLDER/CASE/1 and FOLDER/CASE/2, in float64, and then FOLDER/widow, where rank 1 was killed alone.
Processes are forked, so that torch is imported once.
"""

import os
import signal
import socket
import sys
from itertools import count
from pathlib import Path

import torch
import torch._dynamo  # DistributedDataParallel needs it, and importing it takes long
from torch.utils import tensorboard  # noqa: F401

from molflow import train
from molflow.config import parse
from molflow.flows import FLOWS, ContinuousFlow, IntegrationError
from molflow.flows.storage import save_model
from molflow.training.config import ExperimentConfig
from molflow.training.run import Run

STEPS = 20
EGNN = {"kind": "egnn", "hidden": 6, "pair_hidden": 4, "n_blocks": 1, "n_inner": 1}
TRANSFORMER = {"kind": "transformer", "hidden": 6, "n_vectors": 2, "pair_hidden": 4, "n_heads": 1, "n_blocks": 1}
MLP = {"kind": "mlp", "hidden": 6}
COMPOSED = {"kind": "composed_molecules"}
STEPPED = {"kind": "continuous", "solver": {"method": "euler", "n_steps": 2}}


def free_form(domain, network=EGNN, **settings):
    return {"kind": "free_form", "domain": domain, "encoder": network, "decoder": network, **settings}


CASES = {
    "free_form": {"model": free_form({"kind": "molecules"}, noise={}), "training": {"batches": "mixed_size"}},
    "flow_matching": {
        "model": {**STEPPED, "domain": COMPOSED, "network": TRANSFORMER},
        "objective": {"near_fraction": 0.3, "pairing": "equivariant_optimal_transport"},
    },
    "mean_flow": {"model": free_form(COMPOSED, average_velocity=True), "training": {"batches": "equal_cost"}},
    "inversion": {"model": free_form(COMPOSED), "training": {"micro_batch": 2}},
    "regression": {"model": free_form(COMPOSED), "objective": {"teacher": "teacher", "evaluations": 2}},
    "stages": {
        "model": free_form(COMPOSED, TRANSFORMER | {"n_stages": 2}),
        "objective": {"teacher": "teacher", "times": [1, 0.4, 0], "longest_step": 0.4},
    },
    "diffusion": {"model": {"kind": "diffusion", "domain": COMPOSED, "network": EGNN}},
    "likelihood": {"model": {**STEPPED, "domain": {"kind": "molecules"}, "network": EGNN}},
    "likelihood-glow": {"model": {"kind": "glow", "domain": {"kind": "vectors"}, "hidden": 6, "n_transforms": 2}},
    "free_form-one": {"model": free_form({"kind": "vectors"}, MLP), "training": {"batch_size": 1}},
}


def experiment(case, molecules, folder):
    """The experiment of a case; a teacher is made of it."""
    tables = CASES[case]
    vectors = tables["model"]["domain"] == {"kind": "vectors"}
    objective = {"kind": case.partition("-")[0], **tables.get("objective", {})}
    if "teacher" in objective:
        objective["teacher"] = folder / "teacher"
    training = {
        "max_steps": STEPS, "epochs": 100, "batch_size": 9, "log_every": 1, "checkpoint_every": 7,
        "validation_molecules": 1, "validation_samples": 1, "device": "cpu", **tables.get("training", {}),
    }  # fmt: skip
    return parse(
        ExperimentConfig,
        {
            "name": case,
            "data": {"name": "two-moons"} if vectors else {"name": "molecules", "file": molecules},
            "model": tables["model"],
            "objective": objective,
            "optimizer": {"warmup_steps": 2, "weight_decay": 0.01},
            "training": training,
        },
        case,
    )


def run_ranks(size, config, folder, *, resume=False, killed=()):
    """Train in `size` forked processes, of which some kill themselves in step 10; how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        if (child := os.fork()) == 0:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            if rank in killed:
                kill_in_step_10()
            if config.name == "likelihood" and rank == size - 1 and not resume:
                fail_in_step_5()
            try:
                train(config, folder, resume=resume)
            except BaseException as error:
                sys.stderr.write(f"rank {rank} of {size}: {error!r}\n")
                os._exit(1)
            os._exit(0)
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children]


def kill_in_step_10():
    update = Run.update

    def update_or_die(run, figures):
        if run.step == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        update(run, figures)

    Run.update = update_or_die


def fail_in_step_5():
    """A path of this rank cannot be integrated, so all ranks must roll back."""
    terms, steps = ContinuousFlow.terms, count()

    def terms_or_error(*arguments, **settings):
        if next(steps) == 5:
            raise IntegrationError("the step of the solver vanished")
        return terms(*arguments, **settings)

    ContinuousFlow.terms = terms_or_error


def save_teacher(config, folder):
    from molflow.training.tasks import load_splits

    domain = load_splits(config).config.model.domain
    teacher = FLOWS["continuous"](domain=domain, network=TRANSFORMER, solver=STEPPED["solver"])
    save_model(folder, teacher, teacher.build(), {}, None)


def main():
    folder, molecules = Path(sys.argv[1]), sys.argv[2]
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    train(experiment("free_form-one", molecules, folder), folder / "warm-up")
    for case in sys.argv[3:] or CASES:
        config = experiment(case, molecules, folder)
        if getattr(config.objective, "teacher", None) and not (folder / "teacher").exists():
            save_teacher(config, folder / "teacher")
        statuses = run_ranks(1, config, folder / case / "1")
        statuses += run_ranks(2, config, folder / case / "2", killed=(0, 1))
        statuses += run_ranks(2, config, folder / case / "2", resume=True)
        assert statuses == [0, *[signal.SIGKILL] * 2, 0, 0], (case, statuses)
    statuses = run_ranks(2, config, folder / "widow", killed=(1,))
    assert statuses == [1 << 8, signal.SIGKILL], statuses


if __name__ == "__main__":
    main()
