"""Pack a working directory, or Breadth's own source, into a zip file for a cluster. Importing this loads no Ray."""

import contextlib
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import walk
from os.path import normpath
from pathlib import Path

from pathspec import GitIgnoreSpec

from breadth import PACKAGES

LIMIT = 256 * 2**20
"""Most bytes of the files that are sent. Ray refuses a package of 512 MiB, and its head node holds it in memory."""
IGNORE_FILES = (".gitignore", ".rayignore")
LEFT_OUT = (
    ".git/", ".hg/", ".svn/", ".venv/", "venv/", ".tox/", "node_modules/", "__pycache__/", ".mypy_cache/",
    ".pytest_cache/", ".ruff_cache/", "*.egg-info/", "/runs/", "/wandb/", "checkpoints/", ".env", ".env.*", ".netrc",
    "*.pem", "*.key", ".ssh/", ".aws/", ".gnupg/", ".kube/", ".docker/", ".ray/", "/.cache/", "/.config/",
)  # fmt: skip
"""What is never sent: environments, caches, runs, and files that hold secrets, also where a home directory is sent."""
LARGEST = 3
"""Number of the largest entries that are shown."""


@dataclass(frozen=True)
class Package:
    """The files of a folder that are sent."""

    folder: Path
    sizes: dict[str, int]
    """Bytes of each file, by its path relative to the folder."""
    excluded: tuple[str, ...] = ()
    """What was left out by a rule, relative to the folder; a folder ends with a slash, and its files are not listed."""
    links: tuple[str, ...] = ()
    """Links to folders, which are not sent either."""

    @property
    def size(self) -> int:
        return sum(self.sizes.values())

    def largest(self) -> str:
        """Return the largest entries of the folder with their sizes, for the user."""
        top: Counter[str] = Counter()
        for name, size in self.sizes.items():
            head, slash, _ = name.partition("/")
            top[head + slash] += size
        return ", ".join(f"{name} {in_words(size)}" for name, size in top.most_common(LARGEST))

    def holds(self, path: Path) -> bool:
        """Return whether a file, or any file of a folder, is sent."""
        if not path.is_relative_to(self.folder):
            return False
        name = path.relative_to(self.folder).as_posix()
        return name == "." or name in self.sizes or any(other.startswith(f"{name}/") for other in self.sizes)

    def why_not(self, path: Path) -> str:
        """Return why a file or a folder that exists is not sent, for the user."""
        name = normpath(path)
        if not Path(name).is_relative_to(self.folder):
            return f"is outside of {self.folder}"
        inside = Path(name).relative_to(self.folder)
        link = next((link for link in self.links if inside.is_relative_to(link)), "")
        if link:
            return f"is behind the link {link}, and links to folders are not followed"
        return "a .gitignore, a .rayignore, --exclude or Breadth's own list leaves out"

    def check_size(self) -> None:
        """Raise ValueError if the files are too large to be sent."""
        if self.size > LIMIT:
            raise ValueError(
                f"--working-dir: must hold at most {in_words(LIMIT)}, got {in_words(self.size)} in {self.folder} "
                f"(largest: {self.largest()}). Leave files out with --exclude PATTERN or a .gitignore, and give data "
                "and policies as paths on the cluster"
            )

    def write(self, target: Path) -> None:
        """Write the zip file. The same files give the same bytes, so that a cluster that has them gets them once.

        Raises:
            ValueError: a file cannot be read, or its name is no Unicode text.
        """
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for name in sorted(self.sizes):
                path = self.folder / name
                entry = zipfile.ZipInfo(name)  # of 1980: a time would change the bytes
                entry.compress_type = zipfile.ZIP_DEFLATED
                try:
                    entry.external_attr = (path.stat().st_mode & 0o777) << 16
                    content = path.read_bytes()
                    name.encode()
                except (OSError, UnicodeEncodeError) as error:
                    rule = "must hold files that can be read and have names in UTF-8 (or leave them out with --exclude)"
                    raise ValueError(f"--working-dir: {rule}, got {str(path)!r}: {error}") from None
                archive.writestr(entry, content)


def require_folder(folder: Path) -> None:
    """Raise ValueError unless the working directory exists."""
    if not folder.is_dir():
        raise ValueError(f"--working-dir: must be a directory, got {str(folder)!r}")


def working_directory(folder: Path, excludes: Sequence[str] = ()) -> Package:
    """Return the files of a working directory that are sent.

    Left out are LEFT_OUT, what the `.gitignore` and `.rayignore` files of each folder name, and `excludes`, patterns
    in the form of a `.gitignore`. As in Git, a later rule wins over an earlier one, and one of a folder over those of
    the folders above it; LEFT_OUT and `excludes` win over all. Links to folders are not followed.

    Raises:
        ValueError: there is no such folder, or a pattern is malformed.
    """
    require_folder(folder)
    try:
        given = GitIgnoreSpec.from_lines([*LEFT_OUT, *excludes])
    except (ValueError, re.error) as error:
        raise ValueError(f"--exclude: must be a pattern as in a .gitignore, got {error}") from None
    sizes, excluded, links = {}, [], []
    rules: dict[Path, GitIgnoreSpec] = {}
    for place, names, files in walk(folder):
        here = Path(place).relative_to(folder)
        lines = [line for name in IGNORE_FILES if name in files for line in _lines(Path(place) / name)]
        if lines:
            rules[here] = GitIgnoreSpec.from_lines(lines)
        kept = []
        for name in sorted(names):
            if _ignored(here / name, given, rules, folder=True):
                excluded.append(f"{(here / name).as_posix()}/")
            elif (Path(place) / name).is_symlink():
                links.append((here / name).as_posix())
            else:
                kept.append(name)
        names[:] = kept
        for name in files:
            path = Path(place) / name
            if _ignored(here / name, given, rules, folder=False):
                excluded.append((here / name).as_posix())
            elif path.is_file():  # not a socket, nor a broken link
                sizes[(here / name).as_posix()] = path.stat().st_size
    return Package(folder, sizes, tuple(sorted(excluded)), tuple(sorted(links)))


def _lines(file: Path) -> Iterator[str]:
    """Yield the patterns of an ignore file. Malformed ones match nothing, as in Git."""
    for line in file.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, re.error):
            GitIgnoreSpec.from_lines([line])
            yield line


def _ignored(path: Path, given: GitIgnoreSpec, rules: dict[Path, GitIgnoreSpec], *, folder: bool) -> bool:
    """Return whether a path is left out: by `given`, or by the last of the rules of the folders above it.

    Args:
        rules: of each folder that has some; those of a folder come after those of the folders above it.
    """
    slash = "/" * folder
    found = [
        rule.check_file(path.relative_to(place).as_posix() + slash).include
        for place, rule in rules.items()
        if path.is_relative_to(place)
    ]
    decided = [include for include in found if include is not None]
    return given.match_file(path.as_posix() + slash) or bool(decided and decided[-1])


def own_source(root: Path) -> Package:
    """Return the files of Breadth itself below `root`: `breadth.py`, its packages and their data."""
    files = [root / "breadth.py", *_sources(root / name for name in PACKAGES)]
    return Package(root, {path.relative_to(root).as_posix(): path.stat().st_size for path in files})


def _sources(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def in_words(size: int) -> str:
    """Return a number of bytes with its unit: `12.3 MB`."""
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
