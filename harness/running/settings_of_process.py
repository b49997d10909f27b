"""Settings of Python and the system that a trial may change."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # of CPython
import contextlib
import decimal
import fcntl
import gc
import locale
import logging
import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.running.setting import Setting, attribute

# Those that the engine, a library or the system sends.
_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE),
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGCHLD),
    *(signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = [getattr(resource, n) for n in dir(resource) if n.startswith("RLIMIT_")]
_HIGH = 100  # copies of descriptors have numbers from here on
_ATTRIBUTES = (
    (sys, ("stdin", "stdout", "stderr", "excepthook", "unraisablehook")),
    (threading, ("excepthook",)),
    (warnings, ("showwarning",)),
)


def settings() -> Iterator[Setting]:
    """Yield every setting, in the order in which they are put back."""
    yield from _of_python()
    yield from _of_system()


def _of_python() -> Iterator[Setting]:
    one = Setting
    yield one("errors of NumPy", np.geterr, lambda value: np.seterr(**value))
    yield one("decimal context", _decimal, _set_decimal)
    yield one("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield one(
        "digits of integers", sys.get_int_max_str_digits, sys.set_int_max_str_digits
    )
    for owner, names in _ATTRIBUTES:
        for name in names:
            yield attribute(f"{owner.__name__}.{name}", owner, name)
    yield one("trace function", sys.gettrace, sys.settrace)
    yield one("profile function", sys.getprofile, sys.setprofile)
    yield one("trace function of threads", threading.gettrace, threading.settrace)
    yield one("profile function of threads", threading.getprofile, threading.setprofile)
    yield _list("import path", sys.path)
    yield _list("finders of modules", sys.meta_path)
    yield _list("callbacks of garbage collection", gc.callbacks)
    yield one(
        "garbage collection", gc.isenabled, lambda v: (gc.disable, gc.enable)[v]()
    )
    yield one("disabled logging", lambda: logging.root.manager.disable, logging.disable)
    yield one("warnings that raise", _raising, _set_raising)


def _of_system() -> Iterator[Setting]:
    one = Setting
    yield one("working directory", _directory, _change_directory)
    yield one("environment", _encoded_environment, _environment)
    streams = _Streams()
    yield one("standard streams", streams.read, streams.write)
    # After the environment, from which the C library takes the locale.
    yield one(
        "locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda value: locale.setlocale(locale.LC_ALL, value),
    )
    yield one("umask", _umask, os.umask)
    yield one("limits of the process", _limits, _set_limits)
    yield one(
        "processors",
        lambda: os.sched_getaffinity(0),
        lambda value: os.sched_setaffinity(0, value),
    )
    yield one("priority", lambda: os.nice(0), lambda v: os.nice(v - os.nice(0)))
    if threading.current_thread() is threading.main_thread():
        yield one("signal handlers", _handlers, _set_handlers)
        yield one("blocked signals", _blocked, _block)
        timers = _Timers()
        yield one("timers", timers.read, timers.write)


def _list(name: str, target: list[Any]) -> Setting:
    def write(before: list[Any]) -> None:
        target[:] = before

    return Setting(name, lambda: list(target), write)


def _decimal() -> tuple[Any, ...]:
    now = decimal.getcontext()
    traps = tuple(name for name, on in now.traps.items() if on)
    return now.prec, now.rounding, now.Emin, now.Emax, now.capitals, now.clamp, traps


def _set_decimal(before: tuple[Any, ...]) -> None:
    prec, rounding, low, high, capitals, clamp, traps = before
    sizes = {"prec": prec, "Emin": low, "Emax": high, "capitals": capitals}
    decimal.setcontext(
        decimal.Context(rounding=rounding, clamp=clamp, traps=list(traps), **sizes)
    )


def _raising() -> list[Any]:
    """Warning filters that raise; others change no result."""
    return [one for one in warnings.filters if one[0] == "error"]


def _set_raising(before: list[Any]) -> None:
    kept = [one for one in warnings.filters if one[0] != "error" or one in before]
    warnings.filters[:] = kept  # type: ignore[index]
    # Warnings that were seen are cached by the version of the filters.
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _directory() -> str | None:
    with contextlib.suppress(OSError):  # it was deleted
        return os.getcwd()
    return None


def _change_directory(path: str | None) -> None:
    if path is not None:
        os.chdir(path)


def _encoded_environment() -> dict[bytes, bytes]:
    # Without decoding each name and value, which takes 40 microseconds.
    return dict(os.environ._data)  # type: ignore[attr-defined]


def _environment(values: dict[bytes, bytes]) -> None:
    # Changed in place and name by name: each change also reaches ``getenv`` of C code.
    for name in os.environb.keys() - values.keys():
        del os.environb[name]
    os.environb.update(values)


class _Streams:
    """Copies of the descriptors 0, 1 and 2, to open them again as they were."""

    def __init__(self) -> None:
        self.copies = {
            number: fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _HIGH)
            for number in range(3)
            if _file_of(number) is not None
        }

    def __del__(self) -> None:
        for copy in self.copies.values():
            with contextlib.suppress(OSError):  # a plugin closed all descriptors
                os.close(copy)

    def read(self) -> list[tuple[int, int] | None]:
        return [_file_of(number) for number in range(3)]

    def write(self, before: list[tuple[int, int] | None]) -> None:
        # A file that is opened next would get the number of a closed stream, and with
        # it whatever is printed.
        for number, copy in self.copies.items():
            if _file_of(number) != before[number]:
                os.dup2(copy, number)


def _file_of(descriptor: int) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):  # it is closed
        found = os.fstat(descriptor)
        return found.st_dev, found.st_ino
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(one) for one in _LIMITS]


def _set_limits(before: list[tuple[int, int]]) -> None:
    for which, (soft, hard) in zip(_LIMITS, before, strict=True):
        if resource.getrlimit(which) != (soft, hard):
            resource.setrlimit(which, (soft, hard))


def _blocked() -> set[Any]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def _block(before: set[Any]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Timers:
    """Timers that a trial left, whose signal would end a later one."""

    def __init__(self) -> None:
        self.free = [kind for kind in _TIMERS if not signal.getitimer(kind)[0]]

    def read(self) -> list[int]:
        return [kind for kind in self.free if signal.getitimer(kind)[0]]

    def write(self, _: list[int]) -> None:
        for kind in self.free:
            signal.setitimer(kind, 0)


def _handlers() -> dict[int, Any]:
    # Without the names of the module ``signal``, whose search takes 20 microseconds.
    return {number: _signal.getsignal(number) for number in _SIGNALS}


def _set_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        # None stands for a handler that was not set from Python, which cannot be set
        # again.
        if handler is not None and _signal.getsignal(number) is not handler:
            signal.signal(number, handler)
