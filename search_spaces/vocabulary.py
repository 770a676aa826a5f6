"""Every value that published dynamic transformers need, whether it runs here yet or not."""

BACKBONE_TYPES = ("encoder", "decoder", "enc_dec", "recurrent")
FFN_KINDS = ("mlp", "gated")
POSITIONS = ("learned", "fixed", "rotary", "relative")
NORMS = ("layer", "rms")
NORM_PLACES = ("post", "pre")
BIASES = ("all", "none", "qkv", "no_key")
HEADS = ("linear", "pooler_linear", "student_attn", "norm_lm", "mlp_lm", "block_lm")
LM_HEADS = ("norm_lm", "mlp_lm", "block_lm")
AGGREGATORS = ("none", "cache", "poe", "vote")
EXIT_GRANULARITY = ("sample", "token")
KV_POLICIES = (
    "copy_state",
    "recompute",
    "pipeline",
    "sync_parallel",
    "monotone",
    "self_speculative",
)
ORIGINS = ("split", "upcycled")
ROUTERS = ("token_choice", "expert_choice", "hash", "balanced_assignment", "task", "random")
MECHANISMS = ("fixed_schedule", "threshold", "gate", "jump", "topk_router", "lookup")
SCORES = ("attention_received", "learned", "router")
POINTS = ("before_layer", "after_attn")
SKIPPED = ("drop", "pass_through", "copy_state", "alt_path")
RESTORES = ("none", "last_layer")
REUSES = ("none", "features", "tokens")
