"""Loads a handlers file, finds and checks its on_* functions."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePath
from types import FunctionType, ModuleType, TracebackType
from typing import Any, Final, TypeVar

from wsraw.config import programs
from wsraw.link.records import GROUP_LIMIT
from wsraw.workers import values
from wsraw.workers.loading import source

Handler = Callable[..., Any]
F = TypeVar("F", bound=Callable[[], Any])

SIGNATURES: Final = {
    "on_connect": ("inf", "con"),
    "on_message": ("msg", "con"),
    "on_request": ("request", "con"),
    "on_error": ("error_message", "con"),
    "on_close": ("con",),
    "on_attach": ("con",),
    "on_join": ("group", "con"),
    "on_leave": ("group", "con"),
    "on_start": (),
    "on_stop": (),
}
"""Functions of a handlers file and their arguments. All are optional."""

OTHER_NAMES: Final = {
    "on_open": "on_connect",
    "on_connection": "on_connect",
    "on_accept": "on_connect",
    "on_data": "on_message",
    "on_receive": "on_message",
    "on_disconnect": "on_close",
    "on_startup": "on_start",
    "on_shutdown": "on_stop",
}
"""Names of these functions in other frameworks."""

LIKENESS: Final = 0.84
"""difflib ratio from which a name counts as a misspelling of ours."""


class LoadError(Exception):
    """A handlers file does not load. The text is for the user: a sentence or a traceback.

    For the log, the parts of a text with a traceback are also separate: `traceback`, and `summary`
    in one line, with advice if there is any.
    """

    def __init__(self, text: str, traceback: str = "", summary: str = "") -> None:
        super().__init__(text)
        self.traceback = traceback
        self.summary = summary or text


ASK_AGAIN: Final = 1.0
"""Seconds after which a worker without a gateway asks again for the turn to call a timer."""


class IntervalTimer:
    """A function to be called at intervals. Missed calls are skipped: no burst follows a long
    handler."""

    def __init__(self, seconds: float, function: Callable[[], Any], name: str = "") -> None:
        self.seconds = seconds
        self.function = function
        self.name = name
        """The name under which the gateway knows the timer, if one worker of the pool calls it at a
        time."""
        self.is_async = is_async(function)
        self.when = 0.0
        """When the timer is due, once it is started; if it has a name, when to ask the gateway."""
        self.is_ours = False
        """The gateway has given this worker the turn."""

    def start(self, now: float) -> None:
        self.when = now if self.name else now + self.seconds

    def advance(self, now: float) -> None:
        """Set when the timer is due again."""
        # Asking again also reports that this call is over.
        self.when = now if self.name else max(self.when + self.seconds, now)
        self.is_ours = False

    def told(self, wait: float | None, now: float) -> None:
        """The gateway has answered: call it now (0), or ask again after this many seconds."""
        self.is_ours = wait == 0
        self.when = now + (ASK_AGAIN if wait is None else wait)


def is_async(function: object) -> bool:
    """Whether a function must be awaited: an ``async def``, an object with such a ``__call__``, or
    a plain decorator around one of these (`functools.wraps`)."""
    if function is None or _is_plain(function):
        return False
    import inspect

    inner = inspect.unwrap(function) if callable(function) else function
    return any(
        inspect.iscoroutinefunction(each)
        or inspect.iscoroutinefunction(getattr(type(each), "__call__", None))  # noqa: B004
        for each in (function, inner)
    )


_TAKES_MORE: Final = 0x04 | 0x08
"""CO_VARARGS and CO_VARKEYWORDS of the module inspect."""

_YIELDS_OR_AWAITS: Final = 0x20 | 0x80 | 0x100 | 0x200
"""CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE and CO_ASYNC_GENERATOR."""


def _is_plain(function: object) -> bool:
    """Whether a function is a plain `def` without any wrapper. The module inspect, which recognizes
    all others, takes a megabyte."""
    return (
        type(function) is FunctionType
        and not vars(function)
        and not function.__code__.co_flags & _YIELDS_OR_AWAITS
    )


_timers: list[IntervalTimer] | None = None
"""Timers of `every`; None in a process that has no worker."""

_is_too_late = False
"""Whether the worker has started, so that no timers can be added."""


def every(seconds: float, *, once: bool = False) -> Callable[[F], F]:
    """Call the decorated function every `seconds` seconds, in each worker, between events.

    With `once` it is called in one worker of the pool at a time, whichever has its turn: not more
    often than every `seconds`, and not before the last call has returned or its worker has died.
    The first call comes after that time; calls do not overlap. Their commands are sent at once. To
    be used while the file loads, or in on_start. Raises ValueError if `seconds` is not above 0,
    TypeError if it is not a number or the decorated object not a function, RuntimeError if it is
    too late. In a process that only imports the file (as multiprocessing's "spawn" does, or a test)
    nothing is called.
    """
    time = values.seconds(seconds, "the time of every()")
    values.flag(once, "once")

    def add(function: F) -> F:
        if _is_too_late:
            raise RuntimeError("every() can be used while the handlers file loads, or in on_start")
        values.function(function, f"what every({time:g}) calls")
        check_arity(function, f"every({time:g})", ())
        name = _timer_name(function) if once else ""
        if _timers is not None:
            if once and name in [timer.name for timer in _timers]:
                raise ValueError(
                    f"there is a timer {name} with once=True already: give each function a name of "
                    "its own"
                )
            _timers.append(IntervalTimer(time, function, name))
        return function

    return add


def _timer_name(function: Callable[[], Any]) -> str:
    """The name of a timer, which is the same in all workers, whatever name the module has there."""
    name: str = getattr(function, "__qualname__", type(function).__qualname__)
    return name[:GROUP_LIMIT]


def start_timers(now: float) -> list[IntervalTimer]:
    """Start all timers; `every` raises from now on."""
    global _timers, _is_too_late
    timers, _timers, _is_too_late = _timers or [], None, True
    for timer in timers:
        timer.start(now)
    return timers


def offer(timers: list[IntervalTimer]) -> None:
    """Begin with these timers; the file, while it loads, or on_start may add others."""
    global _timers, _is_too_late
    _timers, _is_too_late = list(timers), False


class Handlers:
    """The functions of a handlers file or any other object; None for missing ones."""

    def __init__(self, module: object) -> None:
        self.module = module
        functions = {name: find(module, name, args) for name, args in SIGNATURES.items()}
        self.on_connect = functions["on_connect"]
        self.on_message = functions["on_message"]
        self.on_request = functions["on_request"]
        self.on_error = functions["on_error"]
        self.on_close = functions["on_close"]
        self.on_attach = functions["on_attach"]
        self.on_join = functions["on_join"]
        self.on_leave = functions["on_leave"]
        self.on_start = functions["on_start"]
        self.on_stop = functions["on_stop"]
        self.awaited = frozenset(name for name in functions if is_async(functions[name]))
        """Names of the async functions."""
        self.timers = list(_timers or ())
        """Timers of the file; on_start may add others."""
        self.is_async = bool(self.awaited) or any(timer.is_async for timer in self.timers)
        """Whether any handler or timer is async, which needs an asyncio loop."""

    @property
    def asked_events(self) -> list[str]:
        """Names of the events that a worker gets only if it asks for them."""
        return [name for name in ("on_join", "on_leave") if getattr(self, name) is not None]

    @property
    def is_static(self) -> bool:
        """Whether these are the handlers of the setting `static`."""
        return getattr(self.module, "__name__", "") == programs.STATIC.module

    @property
    def names(self) -> list[str]:
        """Names of the existing functions."""
        return [name for name in SIGNATURES if getattr(self, name) is not None]


def find(module: object, name: str, args: tuple[str, ...]) -> Handler | None:
    """The function of that name, or None. Raises LoadError if it cannot be a handler."""
    function = getattr(module, name, None)
    if function is None:
        return None
    if not callable(function):
        raise LoadError(f"{name} of {getattr(module, '__file__', module)} is not a function")
    check_arity(function, name, args)
    return function  # type: ignore[no-any-return]


def slips(handlers: Handlers) -> list[str]:
    """Functions that look like misspelled handlers, as lines for the log."""
    missing = [name for name in SIGNATURES if getattr(handlers, name) is None]
    others = {
        name: value
        for name, value in vars(handlers.module).items()
        if name.lower().startswith("on")
        and name not in SIGNATURES
        and isinstance(value, FunctionType)
    }
    if not others:
        return []
    # Imported here, because few need it and all would wait for it.
    from difflib import get_close_matches

    found = []
    for name, value in others.items():
        like = get_close_matches(name.lower(), missing, n=1, cutoff=LIKENESS)
        meant = OTHER_NAMES.get(name) or (like[0] if like else "")
        if meant in missing:
            found.append(f"wsraw does not call {name}; did you mean {meant}?{_where(value)}")
    return found


def check_arity(function: Handler, name: str, args: tuple[str, ...]) -> None:
    """Raise LoadError unless the function takes those arguments and is not a generator."""
    if _is_plain(function) and _takes(function, len(args)):
        return
    import inspect

    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise LoadError(f"{name} contains a yield; a handler returns once{_where(function)}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # A callable without a signature raises when it is called.
    try:
        signature.bind(*args)
    except TypeError:
        raise LoadError(
            f"{name}{signature} cannot be called as {name}({', '.join(args)}){_where(function)}"
        ) from None


def _takes(function: Any, count: int) -> bool:
    """Whether a plain function takes exactly this many arguments."""
    code = function.__code__
    takes_more = code.co_kwonlyargcount or code.co_flags & _TAKES_MORE
    return code.co_argcount == count and not takes_more


def _where(function: Handler) -> str:
    import inspect

    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""


def load(file: str | None) -> Handlers:
    """Run a handlers file and take its functions; without a file, functions that print each event.

    The file's folder comes first on sys.path, as for a script; or, if the file is in a package, the
    folder that the package is in, as for ``python -m``. Raises LoadError.
    """
    offer([])
    if file is None:
        from wsraw.workers.loading import print_events

        return Handlers(print_events)
    if file == programs.STATIC.module:
        from wsraw.workers.static import files

        return Handlers(files)
    path = Path(file).resolve()
    if not source.is_file(str(path)):
        raise LoadError(f"there is no handlers file {file}")
    place = programs.place(path, source.is_file)
    if not place.module and path.stem in sys.stdlib_module_names:
        # In a json.py, `import json` means Python's.
        with suppress(Exception):
            importlib.import_module(path.stem)
    sys.path.insert(0, str(place.folder))
    try:
        if not source.is_kept(str(path)) and not path.read_bytes().strip():
            # The file may be half written, and would load without any handlers.
            raise LoadError(f"{file} is empty: is it the right file, has it been written whole?")
        if place.module:
            module = _run_in_package(path, place.module)
        else:
            module = _run(_module_name(path), path)
        # Inside the try, as a __getattr__ or properties of the module may raise.
        return Handlers(module)
    except (LoadError, KeyboardInterrupt):
        raise
    except BaseException as error:
        stack, hint = _traceback(error, place.folder), _hint(error, path)
        summary = f"{file} does not load: {_in_a_line(error)}{hint}"
        raise LoadError(stack + hint, stack, summary) from error


def _run_in_package(path: Path, name: str) -> ModuleType:
    """Run a file that is in a package, so that its relative imports work."""
    # For files that import their neighbours like a script; last in the path, because otherwise a
    # neighbour named logging would hide Python's.
    sys.path.append(str(path.parent))
    sys.modules.pop(name, None)
    parent, _, own = name.rpartition(".")
    if parent:
        package = importlib.import_module(parent)
        if name in sys.modules:
            # The package imports it itself.
            return sys.modules[name]
    module = _run(name, path)
    if parent:
        setattr(package, own, module)
    return module


def _run(name: str, path: Path) -> ModuleType:
    """Run a file as the module of that name."""
    folders = [str(path.parent)] if path.name == programs.INIT else None
    spec = importlib.util.spec_from_file_location(
        name,
        path,
        loader=source.Loader(name, str(path)),
        submodule_search_locations=folders,
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, because dataclasses, pickle and typing look up their module by
    # name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _in_a_line(error: BaseException) -> str:
    """The type of an exception, and the first line of its text."""
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception:
        text = ""
    kind = type(error).__name__
    return f"{kind}: {text}" if text else kind


def _hint(error: BaseException, path: Path) -> str:
    if isinstance(error, ImportError) and "no known parent package" in str(error):
        return (
            f"\nThe folder {path.parent} is not a package: for relative imports, put an empty file "
            f"{programs.INIT} into it"
        )
    return ""


def _module_name(path: Path) -> str:
    """The name of the file, by which spawned processes of multiprocessing find it, unless that
    would hide another module, as json.py would."""
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names or "." in name:
        return "wsraw_handlers_" + "".join(c if c.isalnum() else "_" for c in name)
    return name


def _traceback(error: BaseException, folder: PurePath) -> str:
    """The traceback, beginning at the first of the user's files."""
    own: TracebackType | None = error.__traceback__
    while own is not None and not _is_in(own.tb_frame.f_code.co_filename, folder):
        own = own.tb_next
    return "".join(traceback.format_exception(type(error), error, own)).rstrip()


def _is_in(file: str, folder: PurePath) -> bool:
    return PurePath(file).is_relative_to(folder) and file != __file__
