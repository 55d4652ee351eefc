"""Tiny models of many kinds, made from configurations, each with its examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.utils.data import default_collate

from support.library_models import DECODER, TEXT, TRANSFORMERS, VISION, seeded, unet
from support.model_rows import (
    Graphs,
    asked,
    boxes,
    captioned,
    choices,
    classed,
    drawn,
    graph,
    image,
    lists_of,
    map_of,
    pictured,
    pretraining,
    scored,
    segments,
    series,
    spanned,
    speech,
    spoken,
    text,
)
from trackside import Trainer


@dataclass
class Kind:
    """A model with its data.

    Attributes:
        make: Returns a new model, with the same weights each time.
        row: Returns an example by its number.
        collate: Makes a batch of examples; by default the trainer's own collator.
        label_names: The names of the labels in a batch.
        trainer: The class of its trainer.
        told: What a run with accumulation says; empty if its updates are those of one large batch.
    """

    make: Callable[[], nn.Module]
    row: Callable[[int], Any]
    collate: Callable[[list[Any]], Any] | None = None
    label_names: list[str] | None = None
    trainer: type[Trainer] = Trainer
    told: str = ""


RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "out_features": ["stage2"]}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1] * 4, "num_heads": [2] * 4, "window_size": 4}
SWIN |= {"drop_path_rate": 0.0}
SWIN |= {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
LAYERS = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
LAYERS |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
AUDIO = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
AUDIO |= {"conv_dim": (8, 8), "conv_stride": (4, 2), "conv_kernel": (8, 4), "num_conv_pos_embeddings": 4}
AUDIO |= {"num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer", "vocab_size": 12, "pad_token_id": 0}


# -- models -----------------------------------------------------------------------------------------------------------


def detr_config(**more: Any) -> Any:
    backbone = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    return tf.DetrConfig(**LAYERS, **backbone, backbone_config=tf.ResNetConfig(**RESNET), num_queries=4, **more)


def detr() -> nn.Module:
    return tf.DetrForObjectDetection(detr_config(num_labels=3))


def mask2former() -> nn.Module:
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 16}
    rest = {"num_queries": 4, "num_labels": 3, "train_num_points": 16, "backbone_config": tf.SwinConfig(**SWIN)}
    return tf.Mask2FormerForUniversalSegmentation(tf.Mask2FormerConfig(**sizes, **layers, **rest))


def maskformer() -> nn.Module:
    options = {"fpn_feature_size": 32, "mask_feature_size": 32, "num_labels": 3, "decoder_config": detr_config()}
    config = tf.MaskFormerConfig(backbone_config=tf.MaskFormerSwinConfig(**SWIN), **options)
    return tf.MaskFormerForInstanceSegmentation(config)


def clip() -> nn.Module:
    text_config, vision = tf.CLIPTextConfig(**TEXT), tf.CLIPVisionConfig(**VISION)
    config = tf.CLIPConfig(text_config=text_config.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    return tf.CLIPModel(config)


def whisper() -> nn.Module:
    tokens = {"vocab_size": 32, "pad_token_id": 0, "decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2}
    config = tf.WhisperConfig(**LAYERS, **tokens, max_source_positions=8, max_target_positions=16)
    return tf.WhisperForConditionalGeneration(config)


def mamba() -> nn.Module:
    config = tf.MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1, expand=1, conv_kernel=2)
    return tf.MambaForCausalLM(config)


def vision_encoder_decoder() -> nn.Module:
    decoder = tf.GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=32, n_positions=16, is_decoder=True, add_cross_attention=True
    )
    config = tf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(tf.ViTConfig(**VISION), decoder)
    config.decoder_start_token_id = config.pad_token_id = 0
    return tf.VisionEncoderDecoderModel(config=config)


def bart() -> nn.Module:
    config = tf.BartConfig(**LAYERS, vocab_size=32, pad_token_id=0, max_position_embeddings=32)
    return tf.BartForConditionalGeneration(config)


def jamba() -> nn.Module:
    """Layers of attention and of a state space, each with and without experts."""
    periods = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    mamba = {"mamba_d_state": 4, "mamba_expand": 1, "mamba_dt_rank": 2, "use_mamba_kernels": False, "num_experts": 2}
    return tf.JambaForCausalLM(tf.JambaConfig(**DECODER | {"num_hidden_layers": 2}, **periods, **mamba))


def vit_mae() -> nn.Module:
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    return tf.ViTMAEForPreTraining(tf.ViTMAEConfig(**VISION, **decoder, decoder_intermediate_size=16))


def siglip() -> nn.Module:
    return tf.SiglipModel(tf.SiglipConfig(text_config={**TEXT, "projection_size": 16}, vision_config=VISION))


def wav2vec2() -> nn.Module:
    return tf.Wav2Vec2ForCTC(tf.Wav2Vec2Config(**AUDIO, ctc_loss_reduction="mean"))


def time_series() -> nn.Module:
    sizes = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "num_time_features": 1}
    return tf.TimeSeriesTransformerForPrediction(tf.TimeSeriesTransformerConfig(**sizes, **LAYERS))


def florence2() -> nn.Module:
    stages = {"depths": [1, 1], "embed_dim": [8, 16], "num_heads": [1, 2], "num_groups": [1, 2], "window_size": 4}
    stages |= {"patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1], "patch_prenorm": [False, True]}
    stages |= {"projection_dim": 16, "max_position_embeddings": 8, "max_temporal_embeddings": 2}
    text_config = tf.BartConfig(**LAYERS, vocab_size=32, pad_token_id=0, max_position_embeddings=64).to_dict()
    config = tf.Florence2Config(text_config=text_config, vision_config=stages, image_token_id=31)
    return tf.Florence2ForConditionalGeneration(config)


def xlnet() -> nn.Module:
    config = tf.XLNetConfig(vocab_size=32, d_model=16, n_layer=1, n_head=2, d_inner=16, mem_len=4)
    return tf.XLNetLMHeadModel(config)


class GraphNetwork(nn.Module):
    """Passes messages along edges, and classifies the sum over each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, data: Graphs) -> dict[str, Tensor]:
        hidden = self.layer(data.x)
        hidden = hidden.index_add(0, data.edges[1], hidden[data.edges[0]]).relu()
        sums = hidden.new_zeros(data.num_graphs, 8).index_add(0, data.batch, hidden)
        logits = self.head(sums)
        return {"loss": nn.functional.cross_entropy(logits, data.y), "logits": logits}


class GAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


class GANTrainer(Trainer):
    """Has an optimizer and a loss for each of two networks."""

    def create_optimizer(self) -> Any:
        model: Any = self.model
        return {name: torch.optim.Adam(part.parameters(), lr=1e-2) for name, part in model.named_children()}

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        made = model.generator(inputs["noise"])
        real, fake = model.discriminator(inputs["point"]), model.discriminator(made)
        softplus = nn.functional.softplus
        losses = {"generator": softplus(-fake).mean(), "discriminator": (softplus(-real) + softplus(fake)).mean()}
        return (losses, made) if return_outputs else losses


class DiffusionTrainer(Trainer):
    """Lets a U-Net predict the noise that was added to its input, with noise of the trainer's own random stream."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        sample = inputs["sample"]
        noise, steps = torch.randn_like(sample), torch.randint(0, 100, (len(sample),))
        found = UNet2DModel.forward(model, sample + noise * (steps / 100)[:, None, None, None], steps).sample
        loss = nn.functional.mse_loss(found, noise)
        return (loss, {"loss": loss, "sample": found}) if return_outputs else loss


def with_bert(name: str, **more: Any) -> Callable[[], nn.Module]:
    return seeded(lambda: getattr(tf, name)(tf.BertConfig(**TEXT, **more)))


def with_return_loss(rows: list[Any]) -> dict[str, Any]:
    return {**default_collate(rows), "return_loss": True}


UNEQUAL = "a sum of means over different numbers of items"
BATCH_NORM = "computes statistics over the examples of a micro-batch"
spans = ["start_positions", "end_positions"]
masks = ["mask_labels", "class_labels"]
MODELS = {
    **{name: Kind(TRANSFORMERS[name].make, text) for name in ("bert", "gpt2", "llama", "mixtral", "t5")},
    "bert_classes": Kind(with_bert("BertForSequenceClassification"), classed),
    "bert_regression": Kind(with_bert("BertForSequenceClassification", num_labels=1), scored),
    "bert_pretraining": Kind(with_bert("BertForPreTraining"), pretraining, told=UNEQUAL),
    "bert_qa": Kind(with_bert("BertForQuestionAnswering"), spanned, label_names=spans),
    "bert_choices": Kind(with_bert("BertForMultipleChoice"), choices),
    "bart": Kind(seeded(bart), text),
    "jamba": Kind(seeded(jamba), text),
    "xlnet": Kind(seeded(xlnet), text),
    "vit": Kind(TRANSFORMERS["vit"].make, image),
    "vit_mae": Kind(seeded(vit_mae), lambda number: {"pixel_values": drawn(number, 3, 8, 8)}, told="a sum divided by"),
    "segformer": Kind(TRANSFORMERS["segformer"].make, map_of, told=BATCH_NORM),
    "detr": Kind(seeded(detr), boxes, collate=lists_of("labels"), told=UNEQUAL),
    "mask2former": Kind(seeded(mask2former), segments, lists_of(*masks), label_names=masks, told=UNEQUAL),
    "maskformer": Kind(seeded(maskformer), segments, lists_of(*masks), label_names=masks, told=UNEQUAL),
    "wav2vec2": Kind(seeded(wav2vec2), speech),
    "whisper": Kind(seeded(whisper), spoken),
    "clip": Kind(seeded(clip), pictured, with_return_loss, told="its classes are the examples"),
    "siglip": Kind(seeded(siglip), pictured, with_return_loss, told="it compares the examples with each other"),
    "mamba": Kind(seeded(mamba), lambda number: {name: text(number)[name] for name in ("input_ids", "labels")}),
    "florence2": Kind(seeded(florence2), asked),
    "vision_encoder_decoder": Kind(seeded(vision_encoder_decoder), captioned),
    "time_series": Kind(seeded(time_series), series, label_names=["future_values"]),
    "graphs": Kind(seeded(GraphNetwork), graph, collate=Graphs, label_names=["y"]),
    "unet": Kind(seeded(unet), lambda number: {"sample": drawn(number, 1, 8, 8)}, trainer=DiffusionTrainer),
    "gan": Kind(
        seeded(GAN), lambda number: {"noise": drawn(number, 2), "point": drawn(-number, 3)}, trainer=GANTrainer
    ),
}
