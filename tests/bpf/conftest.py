"""The loaded datapath, one per session: loading takes a tenth of a second."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from shim.bpf.compile import CompilerMissing, compile_objects
from shim.bpf.manifest import FOLDER

if TYPE_CHECKING:
    from tests.bpf.harness import Datapath


@pytest.fixture(scope="session")
def compiled() -> None:
    if FOLDER.is_dir() and not os.access(FOLDER, os.W_OK):
        return  # the machine of tests/kernels: what its host compiled
    try:
        compile_objects()
    except CompilerMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def loaded_datapath(compiled: None) -> Iterator[Datapath]:
    from tests.bpf.harness import Datapath

    one = Datapath()
    yield one
    one.close()


@pytest.fixture
def datapath(loaded_datapath: Datapath) -> Datapath:
    """The datapath with an endpoint on lo, no policy (locked), no identities, no connections."""
    loaded_datapath.reset()
    return loaded_datapath
