# SPDX-License-Identifier: Apache-2.0
"""``.nemo`` files: NeMo's archive with ``model_config.yaml``, and the weights as a Hugging Face directory.

Safetensors replace the pickled state dict, so that any layout can write and read the file, and nothing is unpickled.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import partial
from pathlib import Path

from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from omegaconf import OmegaConf

from nemo_mcpo.models.huggingface.export import export_model
from nemo_mcpo.models.huggingface.weights import load_weights
from nemo_mcpo.models.pretrained import NEMO_FOLDER
from nemo_mcpo.platform.distributed import any_rank, is_rank_zero, on_rank_zero


class HuggingFaceInNemoConnector(SaveRestoreConnector):
    """NeMo's connector for ``MegatronGPTMCPOModel``. Every rank calls its methods."""

    def save_to(self, model, save_path: str) -> None:
        """Write the archive under a temporary name, then rename it."""
        target = Path(save_path).expanduser().resolve()
        folder = Path(on_rank_zero(lambda: tempfile.mkdtemp(dir=target.parent)))
        export_model(folder / NEMO_FOLDER, model.chunks, model.architecture, source_dir=model.source_files)

        def pack() -> None:
            OmegaConf.save(model.cfg, folder / self.model_config_yaml)
            temporary = target.with_name(f"{target.name}.incomplete")
            self._make_nemo_file_from_folder(filename=str(temporary), source_dir=str(folder))
            temporary.rename(target)
            shutil.rmtree(folder)

        on_rank_zero(pack)

    def restore_from(
        self,
        calling_cls,
        restore_path: str,
        override_config_path=None,
        map_location=None,
        strict: bool = True,
        return_config: bool = False,
        trainer=None,
        validate_access_integrity: bool = True,
    ):
        """Build the model from the archive's configuration, overridden by ``override_config_path``.

        Rank 0 keeps a copy of the tokenizer files until the process exits, for a later ``save_to``.
        """
        folder = Path(on_rank_zero(partial(self._unpack_beside, restore_path)))
        try:
            config = OmegaConf.load(folder / self.model_config_yaml)
            if override_config_path is not None:
                is_path = isinstance(override_config_path, str | Path)
                override = OmegaConf.load(override_config_path) if is_path else override_config_path
                config = OmegaConf.merge(config, override)
            if return_config:
                return config
            model = calling_cls(cfg=config, trainer=trainer)
            load_weights(folder / NEMO_FOLDER, model.chunks, model.architecture)
            model.source_files = Path(on_rank_zero(partial(_keep_small_files, folder / NEMO_FOLDER)))
            return model
        finally:
            any_rank(False)  # a barrier: every rank has finished reading
            if is_rank_zero():
                shutil.rmtree(folder, ignore_errors=True)

    def _unpack_beside(self, archive: str) -> str:
        """Unpack into a directory beside the archive, which every node can read."""
        folder = tempfile.mkdtemp(dir=Path(archive).resolve().parent)
        return self._unpack_nemo_file(path2file=archive, out_folder=folder)


def _keep_small_files(folder: Path) -> str:
    kept = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    return kept
