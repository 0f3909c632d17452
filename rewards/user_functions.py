"""Import users' verifier functions by import path, `package.module:function`, or by file, `path/file.py:function`."""

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from breadth import PACKAGES
from configs.checks import require

FORM = "package.module:function or path/to/file.py:function"


def split_name(name: str) -> tuple[str, str]:
    """Return the module or file, and the function, of a user verifier's name; empty where one is missing."""
    place, _, function = name.rpartition(":")
    return place, function


def in_file(name: str) -> bool:
    """Return whether the name is that of a function in a file."""
    return split_name(name)[0].endswith(".py")


def with_file(name: str, resolve: Callable[[str], str]) -> str:
    """Return the name with its file's path replaced by `resolve(path)`; any other name is returned unchanged."""
    place, function = split_name(name)
    return f"{resolve(place)}:{function}" if in_file(name) else name


def load_function(name: str, setting: str) -> Callable[..., Any]:
    """Import the function of a user verifier. Modules are also searched in the working directory.

    Args:
        setting: the setting or option that holds the name, for the error message.

    Raises:
        ValueError: there is no such file, module or function, or its import fails.
    """
    check_place(name, setting)
    place, function_name = split_name(name)
    try:
        module = _load_file(Path(place).expanduser().absolute()) if in_file(name) else _load_module(place)
    except Exception as error:  # A user's module may raise anything while it is imported.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"{setting}: must be importable, got {name!r} whose import raised {type(error).__name__}: {error} "
            f"({frame.filename}:{frame.lineno})"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{setting}: must name a function of {place}, got {name!r}")
    return function


def check_place(name: str, setting: str) -> None:
    """Raise ValueError if the file of a user verifier's name does not exist, or the module is one of Breadth's own.

    Imports nothing.
    """
    if in_file(name):
        require(Path(split_name(name)[0]).expanduser().is_file(), setting, "must name an existing file", name)
    else:
        _refuse_own_package(name, setting)


def source_file(name: str) -> Path | None:
    """Return the source file of a user verifier's module, if it has one. A module is imported to find it."""
    place, _ = split_name(name)
    if in_file(name):
        return Path(place).expanduser()
    source = getattr(importlib.import_module(place), "__file__", None)
    return Path(source) if source else None


def _refuse_own_package(name: str, setting: str) -> None:
    """Raise ValueError if the module's name is that of a package of Breadth, which no user's module replaces."""
    place, function = split_name(name)
    if place.partition(".")[0] in PACKAGES:
        file = place.replace(".", "/") + ".py"
        example = file if Path(file).is_file() else f"path/to/{file}"
        raise ValueError(
            f"{setting}: must not name a module of Breadth's own packages ({', '.join(PACKAGES)}); name the file of "
            f"your function instead, {example}:{function}, got {name!r}"
        )


def _load_module(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def _load_file(file: Path) -> ModuleType:
    """Import a file under a name of its own, so that it never collides with another module.

    While it is imported, its folder is the first on the import path; later it is the last.
    """
    name = f"{file.stem}_{hashlib.blake2b(str(file).encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, f"{file} is no Python file"
    module = importlib.util.module_from_spec(spec)
    folder = str(file.parent)
    sys.modules[name] = module
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    if folder not in sys.path:
        sys.path.append(folder)
    return module
