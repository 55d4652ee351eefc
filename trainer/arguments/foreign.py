"""Fields of transformers' TrainingArguments without a counterpart: accepted with the values that change nothing here.

A script or a saved configuration may give them, and callbacks written for transformers may read them. Any other value
is an error that says what to use.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

from trackside.callbacks.errors import ArgumentError

from .serialization import SerializableArguments

HUB = "only its default; upload the folder that save_model() writes with huggingface_hub.upload_folder()"
TRACKIO = "only its default; give it to the callback: callbacks={'trackio': {...}}"
OTHER_LAUNCHERS = "only its default; processes come from torchrun, SLURM or MPI, and sharding from fsdp='full_shard'"


@dataclasses.dataclass(frozen=True)
class ForeignField:
    """A field that exists only for scripts written for transformers; an attribute that refuses what it cannot do.

    Attributes:
        name: Its name there.
        default: Its default there.
        instead: What is allowed, and what to use for other values.
        same: Further values that change nothing here either.
        note: What happens instead with one of ``same``, in a warning; empty if it is what the value asks for.
    """

    name: str
    default: Any
    instead: str
    same: tuple[Any, ...] = ()
    note: str = ""

    def __get__(self, args: SerializableArguments | None, owner: type | None = None) -> Any:
        return self if args is None else vars(args).get(self.name, self.default)

    def __set__(self, args: SerializableArguments, value: Any) -> None:
        if is_foreign(type(args), self.name):
            self._check(value)
        vars(args)[self.name] = value

    def _check(self, value: Any) -> None:
        if not any(value == allowed and isinstance(value, type(allowed)) for allowed in (self.default, *self.same)):
            raise ArgumentError(self.name, value, self.instead)
        if self.note and value != self.default:
            warnings.warn(f"{self.name}={value!r}: {self.note}", UserWarning, stacklevel=4)

    @property
    def kind(self) -> Any:
        """The type of the field; values of other types are refused anyway, and command-line parsers take few."""
        return type(self.default) if self.default is not None else str | None

    def declared(self) -> dataclasses.Field[Any]:
        """Return the field of a dataclass."""
        about = {"help": f"Of transformers; {self.instead}."}
        field: Any = dataclasses.field(default=self.default, kw_only=True, repr=False, compare=False, metadata=about)
        made: dataclasses.Field[Any] = field
        return made


FOREIGN_FIELDS = (
    ForeignField("accelerator_config", None, OTHER_LAUNCHERS, ({},)),
    ForeignField(
        "average_tokens_across_devices",
        True,
        "true",
        (False,),
        "an update is always the mean over the items of all processes",
    ),
    ForeignField("dataloader_in_order", True, "true; batches come in an order that a resumed run repeats"),
    ForeignField("deepspeed", None, OTHER_LAUNCHERS),
    ForeignField("dispatch_batches", None, "only None; each process reads its own part of the data"),
    ForeignField("enable_jit_checkpoint", False, "true or false", (True,)),  # SIGTERM always saves here
    ForeignField("eval_use_gather_object", False, "false; predictions of any structure are gathered"),
    ForeignField("fsdp_min_num_params", 0, "0; give fsdp_config={'min_num_params': ...}"),
    ForeignField(
        "fsdp_transformer_layer_cls_to_wrap",
        None,
        "only None; give fsdp_config={'transformer_layer_cls_to_wrap': ...}",
    ),
    ForeignField("half_precision_backend", "auto", "'auto'; give fp16_backend='apex'", ("cuda_amp", "cpu_amp", "amp")),
    ForeignField("hub_always_push", False, HUB),
    ForeignField("hub_model_id", None, HUB),
    ForeignField("hub_private_repo", None, HUB, (False,)),
    ForeignField("hub_revision", None, HUB),
    ForeignField("hub_strategy", "every_save", HUB, ("end", "checkpoint", "all_checkpoints")),
    ForeignField("hub_token", None, HUB),
    ForeignField("include_tokens_per_second", False, "false; attach the callback throughput_monitor"),
    ForeignField("jit_mode_eval", False, "false; compile the model with torch_compile=True"),
    ForeignField("log_on_each_node", True, "true or false", (False,)),  # the first process logs for all machines
    ForeignField("mp_parameters", "", OTHER_LAUNCHERS),
    ForeignField("parallelism_config", None, OTHER_LAUNCHERS),
    ForeignField("project", "huggingface", TRACKIO),
    ForeignField("push_to_hub", False, HUB),
    ForeignField("push_to_hub_model_id", None, HUB),
    ForeignField("push_to_hub_organization", None, HUB),
    ForeignField("push_to_hub_token", None, HUB),
    ForeignField("ray_scope", "last", "'last'; give it to hyperparameter_search()"),
    ForeignField("save_safetensors", True, "true; weights are always saved as safetensors"),
    ForeignField("sharded_ddp", "", OTHER_LAUNCHERS, (None, False)),
    ForeignField("split_batches", None, "only None; give global_batch_size", (False,)),
    ForeignField("torchdynamo", None, "only None; give torch_compile_backend"),
    ForeignField("tp_size", 0, OTHER_LAUNCHERS, (1,)),
    ForeignField("trackio_bucket_id", None, TRACKIO),
    ForeignField("trackio_space_id", None, TRACKIO, ("trackio",)),
    ForeignField("trackio_static_space_id", None, TRACKIO),
    ForeignField("use_cache", False, "false; set model.config.use_cache"),
    ForeignField("use_ipex", False, "false"),
    ForeignField("use_legacy_prediction_loop", False, "false"),
    ForeignField("use_mps_device", False, "true or false", (True,)),  # an MPS device is used where there is one
)

DECLARED: dict[str, dataclasses.Field[Any]] = {item.name: item.declared() for item in FOREIGN_FIELDS}
KINDS: dict[str, Any] = {item.name: item.kind for item in FOREIGN_FIELDS}
"""What TrainingArguments declares."""


def is_foreign(cls: Any, name: str) -> bool:
    """Return whether the field ``name`` of ``cls`` is one of these, and not one that a subclass declares anew."""
    return name in DECLARED and cls.__dataclass_fields__[name] is DECLARED[name]
