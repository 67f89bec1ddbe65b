"""Records found by name. Names are cheap: a record's module is imported when the record is asked for."""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from nmnc.errors import UserError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """The records of a package: adding one takes one new file and one line here.

    Args:
        what: errors call a record so, e.g. "metric".
        package: full name of the package that has the modules.
        modules: name of each record -> its module in `package`, which lists its records (each with a `name`) in
            RECORDS.
    """

    def __init__(self, what: str, package: str, modules: Mapping[str, str]) -> None:
        self.what, self.package, self.modules = what, package, dict(modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)

    def __contains__(self, name: object) -> bool:
        return name in self.modules

    def __getitem__(self, name: str) -> T:
        """Return the record called `name`; UserError for an unknown name."""
        module = importlib.import_module(self.module(name))
        found: list[Any] = [record for record in module.RECORDS if record.name == name]
        if len(found) != 1:
            raise LookupError(f"{module.__name__}: RECORDS has {len(found)} times the {self.what} {name!r}, not once")
        return found[0]

    def module(self, name: str) -> str:
        """Return the full name of a record's module; what depends on the record depends on that code."""
        try:
            return f"{self.package}.{self.modules[self.checked(name)]}"
        except ValueError as error:
            raise UserError(str(error)) from None

    def checked(self, name: str) -> str:
        """Return the name; ValueError for an unknown one, as pydantic's validators raise it."""
        if name not in self.modules:
            raise ValueError(f"unknown {self.what} {name!r}{did_you_mean(name, self.modules)}")
        return name

    def known(self, names: Iterable[str]) -> list[str]:
        """Return names without blanks around them, each once; UserError for an unknown one."""
        found = list(dict.fromkeys(name.strip() for name in names))
        for name in found:
            self.module(name)
        return found
