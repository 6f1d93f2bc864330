"""Steps as tasks of a Ray cluster, each with the processors, accelerators and memory that it needs.

    driver ─ task with a packed slice ─▶ node ─ envelopes ─▶ outbox, an actor beside the driver ─▶ driver

Ray repeats nothing by itself: a task that ended without an end of its step is lost, and the driver writes a new slice.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import time as clock
from typing import Any

from holdfast.records.errors import StudyError, pip_install, require
from holdfast.records.extensions import allowed
from holdfast.records.machine import describe_machine
from holdfast.runs.carrying.node import Order, Sharing, carry_on_node, look_at_node, pack_slice
from holdfast.runs.carrying.outbox import Outbox
from holdfast.runs.engines.far import Attempt, FarEngine, is_program, stays
from holdfast.runs.engines.local import THREAD_VARIABLES, Workers
from holdfast.runs.plan.step import Step
from holdfast.runs.steps.outcomes import Began, Failure, Lost
from holdfast.runs.steps.reading import rest
from holdfast.store import Store
from holdfast.store.places import LEDGER

CONNECT_SECONDS = 5.0
JOIN_SECONDS = 30.0
LOOK_SECONDS = 60.0  # for every node to say what it is
CLOCK_SECONDS = 60.0  # by which clocks may differ without a word
PROGRAMS = "holdfast_command"  # what a node has that lets stages by programs be carried out on it
_A_PROGRAM = 0.001  # of it that one takes: as many as the node has room for
NO_ACCELERATOR = (
    "no node has an accelerator yet: steps with real models are left to processors; start the nodes that have some"
    " first, or say [resources.KIND] gpus"
)
_GB = 10**9
_DRIVER, _BEATS = "driver", "beats"  # who has places of its own at the outbox
_PLACES_SECONDS = 1.0
_TAKEN_AWAY = (3, 4)  # Ray's reasons of a node's end: it was preempted, or drained while idle


def _run_step(order: Order, outbox: Any) -> bool:
    """On a node: carry out an order, speaking to the outbox by Ray."""
    import ray

    def ask(method: str, *given: Any) -> Any:
        call = getattr(outbox, method).options(concurrency_group=_BEATS if method == "beat" else None)
        return ray.get(call.remote(*given), timeout=10 * LOOK_SECONDS)

    own = ray.get_runtime_context().get_node_id()
    declared = next(one["Resources"] for one in ray.nodes() if one["NodeID"] == own)
    try:
        return carry_on_node(order, ask, name_node(), allow_command=PROGRAMS in declared)
    finally:
        rest()  # this process may wait long for its next step, and others want its memory


def name_node() -> str:
    """This node's name for people, with the beginning of the id that Ray gave it."""
    import ray

    return f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:12]}"


class RayEngine(FarEngine):
    """Steps on a Ray cluster: the one at ``address``, the one that the environment names, else one of this machine."""

    def __init__(self, store: Store, near: Workers, address: str) -> None:
        require_ray()
        import ray

        self._ray: Any = ray
        self._token = secrets.token_hex(16)
        self._refs: dict[str, Any] = {}
        self._nodes: dict[str, str] = {}  # attempt → the node that carries it out
        self._seen: dict[str, Mapping[str, float]] = {}  # what nodes had that were ever there, by their ids
        self._places = (0.0, 0.0)  # how many steps Ray's queue takes, and when that was found out
        _connect(address)
        self._programs = PROGRAMS in ray.cluster_resources()  # once: where a step goes does not change as it is sent
        try:
            super().__init__(store, near)
            self._nonce = nonce = self.attempts.folder / f"nonce-{self._token[:8]}"
            nonce.write_text(secrets.token_hex(16), encoding="ascii")
            self._sharing = Sharing(
                weights=str(store.weights_root.absolute()),
                nonce_file=str(nonce.absolute()),
                nonce=nonce.read_text(encoding="ascii"),
            )
            self.notes = _look_around(ray, self._sharing)
            self._outbox = self._open_outbox()
        except BaseException:
            ray.shutdown()
            raise

    def _open_outbox(self) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = self._ray.get_runtime_context().get_node_id()
        # Steps that wait, for weights or for room, keep neither the driver nor signs of life from being heard.
        actor = self._ray.remote(concurrency_groups={_DRIVER: 4, _BEATS: 8})(Outbox).options(
            num_cpus=0,
            max_concurrency=64,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=here, soft=False),
        )
        return actor.remote(self._token, self._sharing.weights, str((self._store.path / LEDGER).absolute()))

    def has_place(self) -> bool:
        """Whether Ray's queue is short enough: Ray itself places steps, so more than have room may wait in it."""
        if (now := time.monotonic()) - self._places[1] > _PLACES_SECONDS:
            total: dict[str, float] = self._ray.cluster_resources()
            self._places = 2 * total.get("CPU", 0) + 4 * total.get("GPU", 0) + 1, now
        return len(self._refs) < self._places[0]

    def runs_programs(self) -> bool:
        """Whether a node was started with the resource ``holdfast_command``."""
        return self._programs

    def launch(self, attempt: Attempt) -> None:
        """Put an attempt into Ray's queue. Errors: StudyError where no node has what it needs."""
        order = Order(
            attempt=attempt.name,
            packed=pack_slice(attempt.slice),
            digest=attempt.digest,
            sharing=self._sharing,
            scratch=str(attempt.scratch.absolute()),
            token=self._token,
            means=attempt.step.means,
            permitted=allowed(),
        )
        options = self._options(attempt.step)
        self._call("begin", attempt.name, str(attempt.scratch.absolute()), dict(attempt.step.means.budget))
        # A process that has had an accelerator keeps its memory, and to the one that it had.
        task = self._ray.remote(max_calls=1 if options["num_gpus"] else 0)(_run_step).options(**options)
        self._refs[attempt.name] = task.remote(order, self._outbox)

    def _options(self, step: Step) -> dict[str, Any]:
        # Nodes that went may come again, and until then a step waits for one that is like it.
        self._seen |= {one["NodeID"]: one["Resources"] for one in self._ray.nodes() if one["Alive"]}
        nodes = [*self._seen.values()]
        if NO_ACCELERATOR not in self.notes and lacks_accelerators([step], nodes):
            self.notes = (*self.notes, NO_ACCELERATOR)
        needed = needs_of(step, most_gpus=most_gpus(nodes))
        require_room(step, needed, nodes)
        options: dict[str, Any] = {
            "resources": {PROGRAMS: needed[PROGRAMS]} if PROGRAMS in needed else {},
            "num_cpus": needed.get("CPU", 0),
            "num_gpus": needed.get("GPU", 0),
            "max_retries": 0,
            "name": f"{step.kind} {step.fingerprint[:12]}",
            "runtime_env": {"env_vars": dict.fromkeys(THREAD_VARIABLES, "1")},
        }
        if memory := needed.get("memory"):
            options["memory"] = memory
        if step.means.needs.accelerator:
            options["accelerator_type"] = step.means.needs.accelerator
        return options

    def poll(self, seconds: float) -> Iterator[tuple[Attempt, Any]]:
        """What the outbox has, then what Ray says of tasks that ended without an end of their step."""
        refs = {ref: name for name, ref in self._refs.items()}
        ended, _ = self._ray.wait(list(refs), num_returns=len(refs), timeout=0) if refs else ([], [])
        try:
            said, beats = self._call("take", 0.0 if ended else seconds)
        except self._ray.exceptions.GetTimeoutError:
            return  # it is slow, and what was said is still there
        except self._ray.exceptions.RayError as error:
            yield from self._begin_again(error)
            return
        for name in beats:
            if name in self.attempts.open:
                self.attempts.open[name].heard = time.monotonic()
        for name, data in said:
            if (attempt := self.attempts.open.get(name)) is not None:
                for outcome in self.attempts.take(attempt, data):
                    if isinstance(outcome, Began):
                        self._nodes[name] = outcome.node
                    yield attempt, outcome
        for attempt in self.attempts.open.values():
            if attempt.name not in self._nodes:
                attempt.heard = time.monotonic()  # it waits for a place
        for ref in ended:
            if (attempt := self.attempts.open.get(refs[ref])) is not None:
                yield attempt, self._describe_end(ref, attempt)

    def _describe_end(self, ref: Any, attempt: Attempt) -> Lost | Failure:
        """Why a task ended without an end of its step."""
        errors, where = self._ray.exceptions, self._nodes.get(attempt.name, "a node")
        try:
            self._ray.get(ref)
        except errors.TaskUnschedulableError as error:
            return Failure(message=f"no node can carry it out ({_one_line(error)})", log="")
        except errors.OutOfMemoryError:
            return Lost(message=f"{where}: memory was exhausted; set [resources.{attempt.step.kind}] memory_gb")
        except errors.NodeDiedError:
            return Lost(message=f"{where}: the node was lost", counted=not self._is_taken_away(attempt))
        except errors.WorkerCrashedError:
            return Lost(message=f"{where}: the process was lost; was memory exhausted?")
        except errors.RayTaskError as error:
            return Lost(message=f"{where}: {_one_line(error.cause or error)}")
        except errors.RayError as error:
            return Lost(message=f"{where}: {type(error).__name__}: {_one_line(error)}")
        return Lost(message=f"{where}: the task ended without an end of the step")

    def _is_taken_away(self, attempt: Attempt) -> bool:
        name = self._nodes.get(attempt.name, "").partition("/")[2]
        return any(
            name and one["NodeID"].startswith(name) and one.get("DeathReason") in _TAKEN_AWAY
            for one in self._ray.nodes()
        )

    def _begin_again(self, error: Exception) -> Iterator[tuple[Attempt, Any]]:
        """Without an outbox nobody hears what steps say: a new one, and every step that was under way anew."""
        self._outbox = self._open_outbox()
        message = f"what takes the outcomes of steps was lost ({type(error).__name__}); it is there again"
        for attempt in [*self.attempts.open.values()]:
            self.cancel(attempt)
            yield attempt, Lost(message=message, counted=False)

    def _call(self, method: str, *given: Any) -> Any:
        call = getattr(self._outbox, method).options(concurrency_group=_DRIVER)
        return self._ray.get(call.remote(self._token, *given), timeout=LOOK_SECONDS)

    def cancel(self, attempt: Attempt) -> None:
        """Have Ray end the process of an attempt."""
        if (ref := self._refs.get(attempt.name)) is not None:
            with contextlib.suppress(Exception):  # of a node that is gone; what it says is not taken any more
                self._ray.cancel(ref, force=True)
        self.forget(attempt)

    def forget(self, attempt: Attempt) -> None:
        """Let nothing more be taken of an attempt that has ended."""
        self._refs.pop(attempt.name, None)
        self._nodes.pop(attempt.name, None)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._call("end", attempt.name)

    def close(self) -> None:
        """End what is under way, and leave the cluster; one that was started for this run ends with it."""
        super().close()
        self._nonce.unlink(missing_ok=True)
        self._ray.shutdown()


def require_ray() -> None:
    """Refuse a machine without Ray. Errors: StudyError."""
    require(find_spec("ray") is not None, f"--engine ray: needs the package ray; {pip_install('ray')}")


def look_at_cluster(address: str, steps: Sequence[Step]) -> list[str]:
    """What a cluster has and what of it is unlike this machine, a line each.

    Errors: StudyError for what the steps need and no node has.
    """
    require_ray()
    ray: Any = import_module("ray")
    _connect(address)
    try:
        nodes = [one["Resources"] for one in ray.nodes() if one["Alive"]]
        total = ", ".join(f"{sum(one.get(name, 0) for one in nodes):g} {name}" for name in ("CPU", "GPU"))
        programs = any(PROGRAMS in one for one in nodes)
        far = [step for step in steps if step.kind != "analyze" and not stays(step, programs=programs)]
        for step in {(step.kind, str(step.means.needs), step.means.own_gpus): step for step in far}.values():
            require_room(step, needs_of(step, most_gpus=most_gpus(nodes)), nodes)
        sharing = Sharing(weights=str(Path.cwd()), nonce_file="/nowhere", nonce="")
        notes = [*_look_around(ray, sharing), *[NO_ACCELERATOR] * lacks_accelerators(far, nodes)]
    finally:
        ray.shutdown()
    return [f"the cluster has {len(nodes)} nodes with {total}", *(one for one in notes if "travel through" not in one)]


def most_gpus(nodes: Sequence[Mapping[str, float]]) -> int:
    """How many accelerators the node with most of them has, of nodes as Ray tells their resources."""
    return int(max((one.get("GPU", 0) for one in nodes), default=0))


def lacks_accelerators(steps: Iterable[Step], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether a step is left to processors that would take an accelerator, had any node one."""
    return not most_gpus(nodes) and any(one.means.needs.gpus is None and one.means.own_gpus for one in steps)


def needs_of(step: Step, *, most_gpus: int) -> dict[str, float]:
    """What a step needs of a node, by Ray's names; ``most_gpus`` is what the node with most of them has."""
    declared = step.means.needs
    gpus = declared.gpus if declared.gpus is not None else step.means.own_gpus * (most_gpus > 0)
    needed: dict[str, float] = {"CPU": declared.cpus, "GPU": gpus, "memory": int((declared.memory_gb or 0) * _GB)}
    needed[PROGRAMS] = _A_PROGRAM if is_program(step) else 0
    return {name: count for name, count in needed.items() if count}


def require_room(step: Step, needed: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse a step that no node can ever carry out. Errors: StudyError naming what lacks, and the most there is."""
    accelerator = step.means.needs.accelerator
    fitting = [one for one in nodes if not accelerator or f"accelerator_type:{accelerator}" in one]
    require(
        bool(fitting),
        f"resources.{step.kind}.accelerator is {accelerator!r}, and no node of the cluster has one; name another",
    )
    for name, count in needed.items():
        most = max(one.get(name, 0) for one in fitting)
        require(
            count <= most,
            f"resources.{step.kind}: {step.name} needs {count:g} {name}, and no node of the cluster has more than"
            f" {most:g}; lower it, or add such a node",
        )
    require(
        any(all(one.get(name, 0) >= count for name, count in needed.items()) for one in fitting),
        f"resources.{step.kind}: no node has all that {step.name} needs"
        f" ({', '.join(f'{count:g} {name}' for name, count in needed.items())}); lower one of them",
    )


def _connect(address: str) -> None:
    """Join the cluster, or start one on this machine. Errors: StudyError in one line."""
    import ray

    if address and address != "auto":
        host, _, port = address.rpartition(":")
        require(
            bool(host) and port.isdecimal(), f"--engine ray:{address:.80}: is no address; write it as ray:HOST:PORT"
        )
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            told = error.strerror or str(error)
            raise StudyError(
                f"--engine ray:{address}: nothing answers there ({told}); start it by `ray start`"
            ) from error
        _require_cluster(address)
    _keep_quiet()
    try:
        # Ray by itself would rather join whatever cluster somebody has started on this machine.
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        ray.init(address=where, log_to_driver=False, configure_logging=False, include_dashboard=False)
    except (RuntimeError, ConnectionError, ValueError) as error:
        told = " ".join(str(error).split())[:400]
        raise StudyError(f"--engine ray: cannot join the cluster: {told}") from error


def _keep_quiet() -> None:
    """Keep Ray from writing what befalls its nodes to standard output, where results stand; lost steps are told anyway.

    Ray has no setting for it. Where its switch is gone, its words are back, and nothing else.
    """
    worker: Any = import_module("ray._private.worker")
    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False


def _require_cluster(address: str) -> None:
    """Refuse what answers at an address and is no cluster, which joining it would wait for. Errors: StudyError."""
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--skip-version-check", "--address", address]
    told = b""
    try:
        found = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=JOIN_SECONDS, check=False)
        healthy, told = found.returncode == 0, found.stderr
    except subprocess.TimeoutExpired:
        healthy = False
    require(
        healthy or b"AuthenticationError" not in told,
        f"--engine ray:{address}: the cluster wants its token; set RAY_AUTH_MODE=token, and have the token in"
        " ~/.ray/auth_token or in RAY_AUTH_TOKEN",
    )
    require(healthy, f"--engine ray:{address}: what answers there is no Ray cluster; give the address of its head")


def _look_around(ray: Any, sharing: Sharing) -> list[str]:
    """What differs between this machine and the nodes, for people. Errors: StudyError for what would break a run."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here, asked = describe_machine(), {}
    for node in (one for one in ray.nodes() if one["Alive"]):
        place = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        task = ray.remote(look_at_node).options(num_cpus=0, max_retries=1, scheduling_strategy=place)
        asked[f"{node['NodeManagerHostname']}/{node['NodeID'][:12]}"] = task.remote(sharing)
    notes, shared = list[str](), set()
    for name, ref in asked.items():
        try:
            told = ray.get(ref, timeout=LOOK_SECONDS)
        except ray.exceptions.RayError as error:
            raise StudyError(
                f"--engine ray: the node {name} cannot run holdfast {here['holdfast']} ({_one_line(error)}); install"
                " the same version there"
            ) from error
        theirs = told["machine"]
        require(
            theirs["holdfast"] == here["holdfast"],
            f"--engine ray: the node {name} has holdfast {theirs['holdfast']}, this is {here['holdfast']}; install one"
            " version everywhere",
        )
        require(
            told["writable"] or not told["shared"],
            f"--engine ray: {Path(sharing.weights)} can be read and not written on the node {name}; let it be written"
            " there, or hide it",
        )
        shared.add(told["shared"])
        if unlike := [key for key in here if theirs.get(key) != here[key]]:
            what = ", ".join(f"{key} {theirs.get(key)} there, {here[key]} here" for key in unlike)
            notes.append(f"the node {name} is unlike this machine ({what}); last digits may differ")
        if (apart := told["time"] - clock()) and abs(apart) > CLOCK_SECONDS:
            notes.append(f"the clock of the node {name} is {abs(apart):,.0f} s {'ahead' if apart > 0 else 'behind'}")
    if shared == {False}:
        notes.append("no node sees the run's directory: weights travel through the cluster")
    return notes


def _one_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
