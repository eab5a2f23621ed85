"""Tiny models of many architectures of the `transformers` library, from their configurations alone: nothing is loaded.

Importing this file does not import the library.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

Batch = dict[str, Tensor]
Maker = Callable[[Generator], Tensor]

VOCABULARY = 50


def ids(*shape: int) -> Maker:
    """Token ids; 0 and 1 are left for special ones."""
    return lambda generator: torch.randint(2, VOCABULARY, shape, generator=generator)


def normal(*shape: int) -> Maker:
    """What is continuous: pixels, sound, series."""
    return lambda generator: torch.randn(shape, generator=generator)


def always(value: Tensor) -> Maker:
    """The same in every batch."""
    return lambda generator: value.clone()


_CLASSES = always(torch.tensor([0, 1]))
TEXT = {"input_ids": ids(2, 12), "labels": ids(2, 12)}
SENTENCES = {"input_ids": ids(2, 12), "labels": _CLASSES}
IMAGES = {"pixel_values": normal(2, 3, 16, 16), "labels": _CLASSES}
LARGER_IMAGES = {"pixel_values": normal(2, 3, 64, 64), "labels": _CLASSES}
ONLY_IMAGES = {"pixel_values": normal(2, 3, 16, 16)}
ONLY_LARGER_IMAGES = {"pixel_values": normal(2, 3, 64, 64)}
SEGMENTS = {"pixel_values": normal(2, 3, 32, 32), "labels": always(torch.zeros(2, 32, 32, dtype=torch.long))}
SOUND = {"input_values": normal(2, 400), "labels": _CLASSES}
SPEECH = {"input_values": normal(2, 400), "labels": ids(2, 4)}
MEL = {"input_features": normal(2, 8, 24), "labels": ids(2, 12)}
MEL_TIME_FIRST = {"input_features": normal(2, 24, 8), "labels": ids(2, 12)}
MEL_AS_IMAGES = {"input_values": normal(2, 16, 16), "labels": _CLASSES}
PAIRS = {"pixel_values": normal(2, 3, 16, 16), "input_ids": ids(2, 12)}
MATCHED_PAIRS = {**PAIRS, "return_loss": always(torch.tensor(True))}
QUESTIONS = {**PAIRS, "labels": _CLASSES}
CAPTIONS = {**PAIRS, "labels": ids(2, 12)}
_PLACES = torch.cat([torch.ones(2, 4, dtype=torch.long), torch.full((2, 6), 7)], dim=1)  # of four patches, then text
DESCRIBED = {"pixel_values": normal(2, 3, 16, 16), "input_ids": always(_PLACES), "labels": ids(2, 10)}
SERIES = {"past_values": normal(2, 32, 3), "future_values": normal(2, 8, 3)}
BOTH_TEXTS = {"input_ids": ids(2, 12), "decoder_input_ids": ids(2, 12), "labels": ids(2, 12)}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table.

    Attributes:
        name: What the library's class names begin with.
        kind: Of data, or what is special.
        head: What the model's class name ends with.
        inputs: The arguments of a forward, made anew for each step.
        config: Arguments of its configuration.
        parts: Arguments of configurations inside of it, by name.
    """

    name: str
    kind: str
    head: str
    inputs: Mapping[str, Maker]
    config: Mapping[str, object]
    parts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """A model with random weights, in training mode."""
        import transformers

        parts = {name: dict(arguments) for name, arguments in self.parts.items()}
        config = getattr(transformers, f"{self.name}Config")(**self.config, **parts)
        model: nn.Module = getattr(transformers, f"{self.name}{self.head}")(config)
        return model.train()

    def batch(self, step: int) -> Batch:
        """The arguments of the forward of one step."""
        generator = torch.Generator().manual_seed(step)
        return {name: make(generator) for name, make in self.inputs.items()}


_NARROW = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_BLOCKS = {**_NARROW, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "pad_token_id": 0}
_GROUPED = {**_BLOCKS, "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 1}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 1}
_SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
_PATCHES = {**_NARROW, "image_size": 16, "patch_size": 8}
_SOUND = {
    **_BLOCKS,
    "conv_dim": (8, 8),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_length": 2,
    "classifier_proj_size": 8,
}
_STATE_SPACE = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}


def _decoder(name: str, kind: str = "text decoder", head: str = "ForCausalLM", **config: object) -> Architecture:
    return Architecture(name, kind, head, TEXT, {**_GROUPED, **config})


def _gpt(name: str, head: str = "ForCausalLM", **config: object) -> Architecture:
    return Architecture(name, "text decoder", head, TEXT, {**_GPT, **config})


def _encoder(name: str, head: str = "ForMaskedLM", **config: object) -> Architecture:
    return Architecture(name, "text encoder", head, TEXT, {**_BLOCKS, **config})


def _seq2seq(name: str, head: str = "ForConditionalGeneration", **config: object) -> Architecture:
    return Architecture(name, "encoder-decoder", head, TEXT, {**_SEQ2SEQ, **config})


def _vision(
    name: str, inputs: Mapping[str, Maker] = IMAGES, head: str = "ForImageClassification", **config: object
) -> Architecture:
    return Architecture(name, "vision", head, inputs, config)


def _sound(name: str, head: str = "ForSequenceClassification", inputs: Mapping[str, Maker] = SOUND, **config: object):
    return Architecture(name, "sound", head, inputs, {**_SOUND, **config})


# fmt: off
ARCHITECTURES = (
    _gpt("GPT2", "LMHeadModel"),
    _gpt("GPTJ", rotary_dim=4),
    _gpt("GPTBigCode"),
    _gpt("CodeGen", n_head=4, rotary_dim=2),
    _gpt("CTRL", "LMHeadModel", dff=24),
    _decoder("GPTNeo", hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]),
    _decoder("GPTNeoX"),
    _decoder("Llama"),
    _decoder("Mistral"),
    _decoder("Qwen2"),
    _decoder("Qwen3"),
    _decoder("Gemma"),
    _decoder("Gemma2"),
    _decoder("Phi"),
    _decoder("Phi3"),
    Architecture("Falcon", "text decoder", "ForCausalLM", TEXT, _BLOCKS),
    _decoder("OPT", ffn_dim=24, word_embed_proj_dim=16),
    _decoder("Bloom", n_layer=2, n_head=2),
    _decoder("Mpt", d_model=16, n_heads=2, n_layers=2, max_seq_len=32),
    _decoder("StableLm"),
    _decoder("Starcoder2"),
    _decoder("Olmo2"),
    _decoder("Cohere"),
    _decoder("BioGpt"),
    _decoder("XGLM", d_model=16, ffn_dim=24, num_layers=2, attention_heads=2),
    _encoder("Bert"),
    _encoder("Roberta", max_position_embeddings=40),
    _encoder("Albert", embedding_size=8),
    _encoder("Electra", embedding_size=8),
    _encoder("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    _encoder("DistilBert", dim=16, hidden_dim=24, n_layers=2, n_heads=2),
    Architecture("XLNet", "text encoder", "LMHeadModel", TEXT, {"vocab_size": VOCABULARY, "d_model": 16, "d_inner": 24,
        "n_layer": 2, "n_head": 2}),
    _encoder("Longformer", attention_window=4),
    _encoder("BigBird", attention_type="original_full"),
    Architecture("Funnel", "text encoder", "ForMaskedLM", TEXT, {"vocab_size": VOCABULARY, "block_sizes": [1, 1],
        "d_model": 16, "d_inner": 24, "n_head": 2, "d_head": 8, "num_decoder_layers": 1}),
    _encoder("MobileBert", embedding_size=8, intra_bottleneck_size=8, num_feedforward_networks=2),
    _encoder("ModernBert", global_attn_every_n_layers=2),
    _encoder("ConvBert", embedding_size=8, conv_kernel_size=3),
    _encoder("FNet", tpu_short_seq_length=12),
    _encoder("SqueezeBert", embedding_size=16, q_groups=2, k_groups=2, v_groups=2),
    _encoder("Esm", mask_token_id=1),
    _seq2seq("Bart"),
    _seq2seq("Pegasus"),
    _seq2seq("Marian", "MTModel"),
    _seq2seq("MBart"),
    _seq2seq("Blenderbot"),
    _seq2seq("LED", attention_window=4, max_encoder_position_embeddings=32, max_decoder_position_embeddings=32),
    Architecture("T5", "encoder-decoder", "ForConditionalGeneration", TEXT, _T5),
    Architecture("ProphetNet", "encoder-decoder", "ForConditionalGeneration", BOTH_TEXTS, {"vocab_size": VOCABULARY,
        "hidden_size": 16, "max_position_embeddings": 32, "pad_token_id": 0, "num_encoder_layers": 2,
        "num_decoder_layers": 2, "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2, "encoder_ffn_dim":
        24, "decoder_ffn_dim": 24, "decoder_start_token_id": 0}),
    _vision("ViT", **_PATCHES),
    _vision("DeiT", **_PATCHES),
    _vision("Beit", **_PATCHES),
    _vision("Dinov2", **_PATCHES),
    _vision("ViTMAE", ONLY_IMAGES, "ForPreTraining", **_PATCHES, decoder_hidden_size=16, decoder_intermediate_size=24,
        decoder_num_hidden_layers=1, decoder_num_attention_heads=2),
    _vision("Swin", LARGER_IMAGES, image_size=64, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2],
        window_size=4),
    _vision("ConvNext", LARGER_IMAGES, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    _vision("ConvNextV2", LARGER_IMAGES, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    _vision("ResNet", LARGER_IMAGES, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    _vision("RegNet", LARGER_IMAGES, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4),
    _vision("MobileNetV2", LARGER_IMAGES, depth_multiplier=0.25),
    _vision("MobileViT", LARGER_IMAGES, hidden_sizes=[8, 12, 16], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16],
        num_attention_heads=2),
    _vision("PoolFormer", LARGER_IMAGES, hidden_sizes=[8, 16], depths=[1, 1], num_encoder_blocks=2, patch_sizes=[7, 3],
        strides=[4, 2], padding=[2, 1], mlp_ratio=1.0),
    _vision("Segformer", SEGMENTS, "ForSemanticSegmentation", num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[1, 1],
        decoder_hidden_size=16),
    _vision("DPT", SEGMENTS, "ForSemanticSegmentation", **{**_PATCHES, "image_size": 32, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8),
    _sound("Wav2Vec2", "ForCTC", SPEECH),
    _sound("Hubert"),
    _sound("WavLM", num_buckets=8, max_bucket_distance=16),
    _sound("SEW", squeeze_factor=2),
    _sound("Data2VecAudio", num_conv_pos_embeddings=2),
    Architecture("Whisper", "sound", "ForConditionalGeneration", MEL, {**_SEQ2SEQ, "num_mel_bins": 8,
        "max_source_positions": 12, "max_target_positions": 32}),
    Architecture("Speech2Text", "sound", "ForConditionalGeneration", MEL_TIME_FIRST, {**_SEQ2SEQ,
        "input_feat_per_channel": 8, "num_conv_layers": 1, "conv_kernel_sizes": [3], "conv_channels": 16,
        "max_source_positions": 32, "max_target_positions": 32}),
    Architecture("AST", "sound", "ForAudioClassification", MEL_AS_IMAGES, {**_NARROW, "patch_size": 8, "max_length":
        16, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8}),
    Architecture("CLIP", "multimodal", "Model", MATCHED_PAIRS, {"projection_dim": 8}, {"text_config": _BLOCKS,
        "vision_config": _PATCHES}),
    Architecture("Siglip", "multimodal", "Model", MATCHED_PAIRS, {}, {"text_config": _BLOCKS, "vision_config":
        _PATCHES}),
    Architecture("Blip", "multimodal", "ForConditionalGeneration", CAPTIONS, {"projection_dim": 8}, {"text_config":
        {**_BLOCKS, "encoder_hidden_size": 16, "bos_token_id": 1}, "vision_config": _PATCHES}),
    Architecture("Vilt", "multimodal", "ForImagesAndTextClassification", QUESTIONS, {**_BLOCKS, **_PATCHES,
        "num_images": 1}),
    Architecture("Llava", "multimodal", "ForConditionalGeneration", DESCRIBED, {"image_token_id": 1,
        "image_seq_length": 4}, {"text_config": {**_GROUPED, "model_type": "llama"}, "vision_config": {**_PATCHES,
        "model_type": "clip_vision_model"}}),
    Architecture("Git", "multimodal", "ForCausalLM", CAPTIONS, _BLOCKS, {"vision_config": _PATCHES}),
    _decoder("Mixtral", "mixture of experts", num_local_experts=4),
    _decoder("Qwen2Moe", "mixture of experts", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=8),
    _decoder("Olmoe", "mixture of experts", num_experts=4, num_experts_per_tok=2),
    _decoder("DeepseekV3", "mixture of experts", n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2,
        moe_intermediate_size=8, first_k_dense_replace=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4,
        qk_nope_head_dim=4, v_head_dim=8, num_key_value_heads=2, head_dim=4),
    _decoder("GptOss", "mixture of experts", num_local_experts=4, num_experts_per_tok=2),
    Architecture("SwitchTransformers", "mixture of experts", "ForConditionalGeneration", TEXT, {**_T5, "num_experts":
        4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}),
    Architecture("Mamba", "state space", "ForCausalLM", TEXT, _STATE_SPACE),
    Architecture("FalconMamba", "state space", "ForCausalLM", TEXT, _STATE_SPACE),
    Architecture("Mamba2", "state space", "ForCausalLM", TEXT, {**_STATE_SPACE, "num_heads": 4, "head_dim": 8,
        "n_groups": 1, "chunk_size": 8}),
    Architecture("Rwkv", "state space", "ForCausalLM", TEXT, {"vocab_size": VOCABULARY, "hidden_size": 16,
        "num_hidden_layers": 2, "context_length": 16}),
    _decoder("Jamba", "state space", num_experts=2, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1,
        expert_layer_period=2, expert_layer_offset=1, mamba_d_state=4, mamba_dt_rank=4),
    _decoder("RecurrentGemma", "state space", lru_width=16, attention_window_size=8, block_types=["recurrent",
        "attention"]),
    Architecture("PatchTST", "series", "ForPrediction", SERIES, {"num_input_channels": 3, "context_length": 32,
        "prediction_length": 8, "patch_length": 8, "patch_stride": 8, "d_model": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "ffn_dim": 24}),
)
# fmt: on
