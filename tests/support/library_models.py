"""Tiny models of the libraries that write models in their own ways, with data and with how the library loads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import peft
import torch
import transformers as tf
from huggingface_hub import PyTorchModelHubMixin
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Pooling, Transformer
from torch import Tensor, nn

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT |= {"vocab_size": 32, "max_position_embeddings": 32, "pad_token_id": 0}
DECODER = TEXT | {"num_key_value_heads": 2}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION |= {"image_size": 8, "patch_size": 4}


@dataclass
class Case:
    """A model with its data.

    Attributes:
        make: Returns a new model, with the same weights each time.
        row: Returns an example by its number.
        load: Returns the model that the library loads from a folder; by default by ``from_pretrained`` of its class.
    """

    make: Callable[[], nn.Module]
    row: Callable[[int], Any]
    load: Callable[[str], nn.Module] | None = None


def text(number: int) -> dict[str, Tensor]:
    return {"input_ids": (torch.arange(8) + number) % 31 + 1, "labels": (torch.arange(8) + number) % 31 + 1}


def classed(number: int) -> dict[str, Tensor]:
    return {**text(number), "labels": torch.tensor(number % 2)}


def image(number: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.full((3, 8, 8), number / 10), "labels": torch.tensor(number % 2)}


def map_of(number: int) -> dict[str, Tensor]:
    return {**image(number), "labels": torch.full((8, 8), number % 2)}


def image_and_text(number: int) -> dict[str, Tensor]:
    ids = torch.cat([torch.full((4,), 31), torch.arange(4) + number % 8 + 1])
    return {"pixel_values": torch.full((3, 8, 8), number / 10), "input_ids": ids, "labels": ids}


def seeded(make: Callable[..., nn.Module], *args: Any, **options: Any) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return make(*args, **options)

    return made


def llava() -> nn.Module:
    vision = tf.CLIPVisionConfig(**VISION, projection_dim=16)
    text_config = tf.LlamaConfig(**DECODER)
    options = {"image_token_id": 31, "vision_feature_layer": -1, "image_seq_length": 4}
    config = tf.LlavaConfig(vision_config=vision, text_config=text_config, **options)
    return tf.LlavaForConditionalGeneration(config)


def marian() -> nn.Module:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}
    tokens = {"vocab_size": 32, "pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1}
    return tf.MarianMTModel(tf.MarianConfig(**sizes, **heads, **tokens))


def segformer() -> nn.Module:
    sizes = {"num_encoder_blocks": 1, "depths": [1], "sr_ratios": [1], "hidden_sizes": [8], "patch_sizes": [3]}
    rest = {"strides": [2], "num_attention_heads": [1], "mlp_ratios": [1], "decoder_hidden_size": 8}
    return tf.SegformerForSemanticSegmentation(tf.SegformerConfig(**sizes, **rest))


def gpt2() -> nn.Module:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 32, "n_positions": 16}
    return tf.GPT2LMHeadModel(tf.GPT2Config(**sizes, pad_token_id=0))


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 32}
    return tf.T5ForConditionalGeneration(tf.T5Config(**sizes, decoder_start_token_id=0))


TRANSFORMERS = {
    "bert": Case(seeded(lambda: tf.BertForMaskedLM(tf.BertConfig(**TEXT))), text),
    "gpt2": Case(seeded(gpt2), text),
    "llama": Case(seeded(lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**DECODER))), text),
    "llava": Case(seeded(llava), image_and_text),
    "marian": Case(seeded(marian), text),
    "mixtral": Case(
        seeded(lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**DECODER, num_local_experts=2))),
        text,
    ),
    "qwen2_moe": Case(
        seeded(
            lambda: tf.Qwen2MoeForCausalLM(
                tf.Qwen2MoeConfig(
                    **DECODER,
                    num_experts=2,
                    moe_intermediate_size=8,
                    shared_expert_intermediate_size=8,
                    num_experts_per_tok=1,
                )
            )
        ),
        text,
    ),
    "segformer": Case(seeded(segformer), map_of),
    "t5": Case(seeded(t5), text),
    "vit": Case(seeded(lambda: tf.ViTForImageClassification(tf.ViTConfig(**VISION))), image),
}


# -- adapters ---------------------------------------------------------------------------------------------------------


def adapted(base: Callable[[], nn.Module], config: Any, row: Callable[[int], Any], dtype: Any = None) -> Case:
    def make() -> nn.Module:
        model = base()
        model = model if dtype is None else model.to(dtype)
        return peft.get_peft_model(model, config)

    def load(folder: str) -> nn.Module:
        model = base()
        return peft.PeftModel.from_pretrained(model if dtype is None else model.to(dtype), folder)

    return Case(seeded(make), row, load)


lora = {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
ia3 = {"task_type": "SEQ_CLS", "target_modules": ["key"], "feedforward_modules": []}
base_bert = seeded(lambda: tf.BertForSequenceClassification(tf.BertConfig(**TEXT)))
base_gpt2 = TRANSFORMERS["gpt2"].make
ADAPTERS = {
    "lora": adapted(base_gpt2, peft.LoraConfig(**lora), text),
    "lora_bf16": adapted(base_gpt2, peft.LoraConfig(**lora), text, torch.bfloat16),
    "lora_bias": adapted(base_gpt2, peft.LoraConfig(**lora, bias="lora_only"), text),
    "lora_with_modules_to_save": adapted(
        base_bert,
        peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"], task_type="SEQ_CLS"),
        classed,
    ),
    "dora": adapted(base_gpt2, peft.LoraConfig(**lora, use_dora=True), text),
    "ia3": adapted(base_bert, peft.IA3Config(**ia3), classed),
    "prompt_tuning": adapted(base_gpt2, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), text),
}


# -- other libraries --------------------------------------------------------------------------------------------------


class Denoiser(diffusers.UNet2DModel):
    """A model of diffusers that returns its loss."""

    def forward(self, sample: Tensor, **options: Any) -> Any:
        noise = super().forward(sample, torch.zeros(len(sample), dtype=torch.long)).sample
        return {"loss": (noise - sample).pow(2).mean()}


def unet() -> nn.Module:
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    return Denoiser(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4, **blocks)


class Hub(nn.Module, PyTorchModelHubMixin):
    """A model of huggingface_hub, whose ``save_pretrained`` takes no state dict."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)

    def forward(self, x: Tensor) -> Any:
        return {"loss": (self.layer(x) - x.sum(1, keepdim=True)).pow(2).mean()}


class Encoder(SentenceTransformer):
    """A model of sentence-transformers that returns its loss."""

    def forward(self, input_ids: Any, labels: Any = None, **options: Any) -> Any:
        if isinstance(input_ids, dict):
            return super().forward(input_ids, **options)
        features = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        return {"loss": super().forward(features)["sentence_embedding"].pow(2).mean()}


def encoder(folder: str) -> Callable[[], nn.Module]:
    """Return a maker of a model of sentence-transformers, whose parts are loaded from ``folder``."""
    torch.manual_seed(0)
    tf.BertModel(tf.BertConfig(**TEXT)).save_pretrained(folder)
    words = [*("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), *(f"w{index}" for index in range(27))]
    with open(f"{folder}/vocab.txt", "w") as file:
        file.write("\n".join(words))
    tf.BertTokenizer(f"{folder}/vocab.txt").save_pretrained(folder)

    def make() -> nn.Module:
        transformer = Transformer(folder)
        dense = Dense(in_features=16, out_features=4)
        return Encoder(modules=[transformer, Pooling(16), dense], device="cpu")

    return seeded(make)


OTHERS = {
    "diffusers": Case(seeded(unet), lambda number: {"sample": torch.full((1, 8, 8), number / 10)}),
    "hub": Case(seeded(Hub, width=1), lambda number: {"x": torch.full((4,), number / 10)}),
}
