# SPDX-License-Identifier: Apache-2.0
"""``.nemo`` files: NeMo's archive with ``model_config.yaml``, and the weights as a Hugging Face directory inside.

Safetensors in place of a pickled state dict: any layout can write and read it, and no code is ever unpickled.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch.distributed as dist
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from omegaconf import OmegaConf

from nemo_mcpo.models.huggingface.export import export_model
from nemo_mcpo.models.huggingface.weights import load_weights
from nemo_mcpo.models.pretrained import NEMO_FOLDER
from nemo_mcpo.platform.distributed import is_rank_zero


class HuggingFaceInNemoConnector(SaveRestoreConnector):
    """NeMo's connector for ``MegatronGPTMCPOModel``; every rank calls it."""

    def save_to(self, model, save_path: str) -> None:
        """Write the archive beside its final name, then rename it."""
        target = Path(save_path).expanduser().resolve()
        folder = [tempfile.mkdtemp(dir=target.parent) if is_rank_zero() else ""]
        dist.broadcast_object_list(folder)
        source = model.source_files
        export_model(Path(folder[0]) / NEMO_FOLDER, model.chunks, model.architecture, source_dir=source)
        if is_rank_zero():
            OmegaConf.save(model.cfg, Path(folder[0]) / self.model_config_yaml)
            temporary = target.with_name(f"{target.name}.incomplete")
            self._make_nemo_file_from_folder(filename=str(temporary), source_dir=folder[0])
            temporary.rename(target)
            shutil.rmtree(folder[0])
        dist.barrier()

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
        """Build the model from the archive's configuration, with ``override_config_path`` merged over it."""
        folder = [tempfile.mkdtemp(dir=Path(restore_path).resolve().parent) if is_rank_zero() else ""]
        if dist.is_initialized():
            dist.broadcast_object_list(folder)
        try:
            if is_rank_zero():
                self._unpack_nemo_file(path2file=restore_path, out_folder=folder[0])
            _barrier()
            config = OmegaConf.load(Path(folder[0]) / self.model_config_yaml)
            if override_config_path is not None:
                is_path = isinstance(override_config_path, str | Path)
                override = OmegaConf.load(override_config_path) if is_path else override_config_path
                config = OmegaConf.merge(config, override)
            if return_config:
                return config
            model = calling_cls(cfg=config, trainer=trainer)
            load_weights(Path(folder[0]) / NEMO_FOLDER, model.chunks, model.architecture)
            return model
        finally:
            _barrier()
            if is_rank_zero():
                shutil.rmtree(folder[0], ignore_errors=True)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
