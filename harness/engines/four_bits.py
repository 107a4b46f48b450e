"""An engine of weights in 4 bits: adapters that were trained on them stay beside them."""

from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from harness.engines import counting, loading, quantization
from harness.engines.transformers import TransformersEngine
from harness.errors import UserError
from harness.files import store
from harness.models.folder import ADAPTER_CONFIG, model_folder
from harness.work import Needed

if TYPE_CHECKING:
    from peft import PeftModel


class FourBitEngine(TransformersEngine):
    """A causal language model with weights of bitsandbytes in 4 bits."""

    _check = staticmethod(quantization.check_four_bits)

    @classmethod
    def load_quantized(
        cls,
        path: str | Path,
        config: BitsAndBytesConfig,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 128,
        trust_remote_code: bool = False,
        attention: str = "sdpa",
        day: date | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> "FourBitEngine":
        """Load plain weights of a folder or hub id in 4 bits (see `TransformersEngine.load`).

        Args:
            dtype: of what is not in 4 bits: embedding, norms and head.

        Raises:
            UserError: also where bitsandbytes or the device cannot do it, before anything is loaded.
        """
        name, device = str(path), loading.choose_device(device)
        quantization.check_possible(config, device)
        if (Path(name) / ADAPTER_CONFIG).is_file():
            raise UserError(f"{name} is an adapter, which cannot be merged into weights in 4 bits: merge it first")
        disable_progress_bar()
        with loading.load_errors(name, trust_remote_code):
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
            torch_dtype = loading.choose_dtype(dtype, device)
            loaded = {"quantization_config": config, "device_map": {"": device}}
            model = loading.load_causal(name, torch_dtype, trust_remote_code, loaded)
        return cls(model, tokenizer, name, batch_size, attention, day)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        batch_size: int = 128,
        attention: str = "sdpa",
        day: date | None = None,
        adapted: "PeftModel | None" = None,
    ) -> None:
        """
        Args:
            adapted: the PeftModel around the model, if it has adapters.

        Raises:
            UserError: also when the weights are not in 4 bits, or adapters that are saved could not name them.
        """
        quantization.keep_layout(model)
        super().__init__(model, tokenizer, name, batch_size, attention, day)
        self.adapted = adapted
        base = model.config._name_or_path
        try:
            model_folder(base)
        except UserError:
            raise UserError(
                f"adapters on weights in 4 bits are saved with the name of their model, and {base!r} is neither a "
                "folder nor a model of the hub on this machine: load the model by such a name"
            ) from None

    def with_adapters(self, folder: Path) -> "FourBitEngine":
        """An engine of the same weights, with the adapters of a folder that can be trained on."""
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(
            quantization.copied(self.model), str(folder), is_trainable=True, torch_device=str(self.device)
        )
        model = adapted.get_base_model()
        return FourBitEngine(model, self.tokenizer, str(folder), self.batch_size, self.attention, self.day, adapted)

    def needed(self, adapters: Any = None) -> Needed:
        """Return the FLOPs that the model needs for work, with the products of adapters that it has."""
        own = None if self.adapted is None else self.adapted.active_peft_config
        return counting.of_model(self.model, adapters or own)

    @cached_property
    def weights_hash(self) -> str:
        """A digest of weights, adapters, and how they are computed with."""
        settings = {name: str(value) for name, value in self.model.hf_quantizer.quantization_config.to_dict().items()}
        return store.digest([loading.weights_hash(self.model), settings])
