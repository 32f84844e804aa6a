"""Make transformers know exported per-layer models, so that `import secateur` stands for `trust_remote_code=True`.

Nothing heavy is imported here: registering waits until transformers' auto classes are imported, and a family's classes
until a checkpoint of it is loaded. A family's modelling file is the importable module
`secateur.export.secateur_<family>.modeling_secateur`, so that its configs can be pickled to other processes.
"""

import atexit
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

AUTO_CONFIG = "transformers.models.auto.configuration_auto"
PACKAGE = __name__.rpartition(".")[0]


def register_with_transformers() -> None:
    """Register the families now, or as soon as transformers' auto classes are imported."""
    if not any(isinstance(finder, _FamilyPackages) for finder in sys.meta_path):
        sys.meta_path.append(_FamilyPackages())
    if AUTO_CONFIG in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterAutoConfig) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterAutoConfig())


class DeferredConfig:
    """Stands for the config class of a family until a checkpoint asks for it."""

    model_type = ""

    @classmethod
    def from_dict(cls, entries: dict[str, Any], **kwargs: Any) -> Any:
        """Define the family's classes, register them, and hand the entries on."""
        return define_classes(cls.model_type).from_dict(entries, **kwargs)


def define_classes(model_type: str) -> Any:
    """Import the modelling file of a family and register what it defines; give its config class."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from secateur.export.modeling_file import MODULE, config_class_name, model_class_name
    from secateur.model.families import find_family

    family = find_family(model_type.removeprefix("secateur_"))
    module = importlib.import_module(f"{PACKAGE}.{model_type}.{MODULE}")
    config_class = getattr(module, config_class_name(family))
    model_class = getattr(module, model_class_name(family))
    AutoConfig.register(model_type, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    config_class.register_for_auto_class("AutoConfig")
    model_class.register_for_auto_class("AutoModelForCausalLM")
    return config_class


def _register() -> None:
    from secateur.model.families import FAMILIES

    mapping = sys.modules[AUTO_CONFIG].CONFIG_MAPPING
    for family in FAMILIES:
        name = f"secateur_{family}"
        if name not in mapping:
            mapping.register(name, type("DeferredConfig", (DeferredConfig,), {"model_type": name}))


class _FamilyPackages(MetaPathFinder):
    """Finds `secateur.export.secateur_<family>`, a package of the family's modelling file alone.

    The file lies on disk while the process runs, because `save_pretrained` puts a copy beside the weights.
    """

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        prefix = f"{PACKAGE}.secateur_"
        if not fullname.startswith(prefix):
            return None
        import shutil
        import tempfile

        from secateur.export.modeling_file import MODULE, modeling_file
        from secateur.model.families import FAMILIES

        family, _, module = fullname.removeprefix(prefix).partition(".")
        if family not in FAMILIES or module not in ("", MODULE):
            return None
        if not module:
            return ModuleSpec(fullname, None, is_package=True)
        folder = tempfile.mkdtemp(prefix="secateur-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / f"{MODULE}.py"
        path.write_text(modeling_file(FAMILIES[family]))
        return importlib.util.spec_from_file_location(fullname, path)


class _AfterAutoConfig(MetaPathFinder):
    """Notices the import of transformers' auto classes, and registers behind it."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != AUTO_CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register()
