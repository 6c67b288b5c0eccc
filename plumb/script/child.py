"""Process of a script under plumb: intercepts loaders, then runs the script as its interpreter would.

Run as `python -m plumb.script.child ORDERS [ARGS]...`, where ORDERS is JSON that `plumb.script.launcher` writes.
"""

from __future__ import annotations

import faulthandler
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

from plumb.core import plan
from plumb.core.events import Ended as ScriptEnded
from plumb.core.events import EventWriter, LoaderIterated
from plumb.instrument import script_settings
from plumb.instrument.tracebacks import without_plumb
from plumb.script import interception, removed_data, spawned_ranks
from plumb.script.interpreter_flags import has_script_folder_on_path
from plumb.tuning.child_orders import Orders, Target


def main() -> None:
    """Carry out the orders; the process ends with the script's own exit code, or with plumb's."""
    orders = Orders.from_argument(sys.argv[1])
    arguments = sys.argv[2:]
    # The command's plan takes precedence: plumb's functions in the script are off, also in processes that it starts.
    os.environ["PLUMB"] = "off"
    if orders.tune is not None:
        _tune(orders, arguments)
    else:
        _run(orders, arguments)


def _run(orders: Orders, arguments: list[str]) -> None:
    """Run the script as its user would, with the plan applied to its loaders."""
    assert orders.plan_file is not None
    try:
        _apply_plan(orders.plan_file)
    except Exception as error:
        from plumb.instrument import failure_report

        failure_report.say(error, "the script runs without its plan")
    ended_by = run_script(orders.target, arguments)
    if ended_by is not None:
        _exit_like_python(ended_by)


def _apply_plan(plan_file: str) -> None:
    """Apply the plan in a file to the script's loaders, also in the ranks that the script starts."""
    import multiprocessing.util

    from plumb.host.process_control import share_temporary_folder
    from plumb.runtime import cleanup_after_run
    from plumb.script.plan_handler import PlanHandler

    found = plan.read(Path(plan_file))
    if any(cleanup_after_run.leaves_something(loader.config) for loader in found.loaders):
        share_temporary_folder()
        cleanup_after_run.start(multiprocessing.util.get_temp_dir())
    interception.install(PlanHandler(found))
    spawned_ranks.listen(lambda function, ranks, frame: spawned_ranks.PlannedRank(function, plan_file))


def _tune(orders: Orders, arguments: list[str]) -> None:
    from plumb.host import Limits
    from plumb.host.process_control import end_with_parent, forks_end_with_us, share_temporary_folder
    from plumb.journal import hook, records, temporary_folders
    from plumb.script.distributed import TuningDoneFlag
    from plumb.script.launcher import start_seconds
    from plumb.script.session import Session, Work
    from plumb.tuning.options import Options

    assert orders.tune is not None
    assert orders.events_descriptor is not None
    takes_part = orders.tune.takes_part
    end_with_parent()
    forks_end_with_us()
    share_temporary_folder(orders.sockets_folder)
    # Scripts print to a pipe here; their users expect to see each line when it is printed.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sender = EventWriter(orders.events_descriptor)
    if orders.stack_descriptor is not None:
        # faulthandler uses a thread of C's, so that it also shows where a script hangs that never releases the
        # interpreter.
        faulthandler.dump_traceback_later(
            start_seconds(orders.tune.budget_seconds) - 1, repeat=True, file=orders.stack_descriptor, exit=False
        )

    ended = TuningDoneFlag(orders.tune.launch_file) if orders.tune.launch_file else None

    def emit(event: Any) -> None:
        if isinstance(event, LoaderIterated):
            faulthandler.cancel_dump_traceback_later()
        if isinstance(event, ScriptEnded) and ended is not None and not takes_part:
            # Must happen before this process ends, because the other ranks' connections break then.
            ended.set()
        sender(event)

    # The recorder runs already, unless Python was started to ignore its environment.
    recorder = hook.start(os.environ[records.VARIABLE])
    asked = {
        "cpus": orders.tune.cpus,
        "memory_bytes": orders.tune.memory_bytes,
        "max_workers": orders.tune.max_workers,
        "max_connections": orders.tune.max_connections,
    }
    limits = Limits.detect(orders.tune.cache_folder).lowered(
        **{name: float(limit) for name, limit in asked.items() if limit is not None}
    )
    options = Options(
        orders.tune.budget_seconds,
        limits,
        orders.tune.seed,
        orders.tune.may_reorder,
        orders.tune.on_device,
        orders.tune.cache_memory_bytes,
        orders.tune.cache_folder,
        orders.tune.study_url,
        orders.target.stem,
        orders.tune.kept_file,
        orders.tune.ranks,
        orders.tune.plain,
    )

    def work() -> Work:
        from plumb.script.follower_rank import FollowerRankWork
        from plumb.script.trace_work import TracingWork
        from plumb.tuning.in_loop import TuningWork

        assert orders.tune is not None
        if takes_part:
            return FollowerRankWork()
        return TracingWork(emit) if orders.tune.trace_only else TuningWork(options, emit)

    session = Session(
        work,
        options.budget_seconds,
        emit,
        lambda: temporary_folders.note_exit(recorder),
        ends_without_loader=not takes_part,
        done_to_loaders="traced" if orders.tune.trace_only else "tuned",
    )
    interception.install(session)
    interception.once_imported("torch", session.listen_for_training)
    spawned_ranks.listen(session.ranks_started)
    removed_data.listen(session.data_goes)
    script_settings.listen()
    error = run_script(orders.target, arguments)
    if takes_part and error is not None and ended is not None and ended.is_set():
        # The rank that tunes has ended, and the script's connection to it broke.
        session.end_script()
    try:
        session.script_ended(error)
    except Exception as failure:
        session.fail(failure)
    session.report_end(by_plumb=False)
    if error is not None:
        _exit_like_python(error)


def run_script(target: Target, arguments: list[str]) -> BaseException | None:
    """Run the script as `__main__`, as `python SCRIPT` or `python -m MODULE` would; return the error that ended it."""
    try:
        code, module = _load_module(target.name) if target.is_module else _load_file(target.name)
        sys.argv = [module.__dict__["__file__"] if target.is_module else target.name, *arguments]
        sys.modules["__main__"] = module
        if "__mp_main__" in sys.modules:
            # Spawned workers send the script's classes by this name. If plumb imported multiprocessing first, the name
            # stands for plumb's own main module.
            sys.modules["__mp_main__"] = module
        exec(code, module.__dict__)
    except BaseException as error:
        return error
    return None


def _load_file(path: str) -> tuple[CodeType, ModuleType]:
    if has_script_folder_on_path():
        sys.path[0] = str(Path(path).resolve().parent)
    source = Path(path).read_bytes()
    full = os.path.abspath(path)
    module = ModuleType("__main__")
    loader = importlib.machinery.SourceFileLoader("__main__", full)
    module.__dict__.update(__file__=full, __loader__=loader, __cached__=None, __builtins__=__builtins__, __spec__=None)
    return compile(source, full, "exec", dont_inherit=True), module


def _load_module(name: str) -> tuple[CodeType, ModuleType]:
    if has_script_folder_on_path():
        sys.path[0] = os.getcwd()
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    if spec is None or spec.loader is None or spec.origin is None:
        raise ImportError(f"No module named {name}")
    module = ModuleType("__main__")
    module.__dict__.update(
        __file__=spec.origin,
        __loader__=spec.loader,
        __cached__=spec.cached,
        __builtins__=__builtins__,
        # Worker processes that are spawned import the main module again, by this name.
        __spec__=spec,
        __package__=spec.parent,
    )
    code = spec.loader.get_code(spec.name)  # type: ignore[attr-defined]
    return code, module


def _exit_like_python(error: BaseException) -> NoReturn:
    """Let `error` end the process as it would without plumb, and leave plumb's own frames out of its traceback."""
    hook = sys.excepthook

    def show(kind: type[BaseException], shown: BaseException, trace: TracebackType | None) -> None:
        without_plumb(shown)
        hook(kind, shown, shown.__traceback__)

    sys.excepthook = show
    raise error


if __name__ == "__main__":
    main()
