"""Every value that published dynamic transformers need, whether it runs here yet or not."""

BACKBONE_TYPES = ("encoder", "decoder", "enc_dec", "recurrent")
FFN_KINDS = ("mlp", "gated")
POSITIONS = ("learned", "fixed", "rotary", "relative")
NORMS = ("layer", "rms")
NORM_PLACES = ("post", "pre")
BIASES = ("all", "none", "qkv", "no_key")
CELLS = ("lstm", "gru", "rnn")
STACKS = ("encoder", "decoder")
OUTPUTS = ("class", "tokens", "span", "text")
HEADS = (
    "linear",
    "pooler_linear",
    "student_attn",
    "aggregate",  # reads the states of all exits so far
    "norm_lm",
    "mlp_lm",
    "block_lm",
)
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
SIMILARITIES = ("kl", "reverse_kl", "sym_kl", "js")
HASHES = ("random", "balanced", "frequency", "mutual_information", "cluster")
ORIGINS = ("split", "upcycled")
ROUTERS = ("token_choice", "expert_choice", "hash", "balanced_assignment", "task", "random")
OVERFLOWS = ("drop", "residual_only", "reroute")
GATE_NORMS = ("softmax_all", "softmax_topk", "sigmoid", "dselect")
NOISES = ("none", "gaussian", "jitter")
SECOND_EXPERTS = ("top", "random")
KERNELS = ("padded", "grouped", "block_sparse", "dense_mask")
MECHANISMS = ("fixed_schedule", "threshold", "gate", "jump", "topk_router", "lookup")
SCORES = ("attention_received", "cumulative_attention", "learned", "router")
POINTS = ("before_layer", "after_attn")
SKIPPED = ("drop", "pass_through", "copy_state", "alt_path")
RESTORES = ("none", "last_layer")
MODULES = ("block", "attn", "ffn")
PROTECTED = ("cls", "sep", "question", "first", "last")
LAYOUTS = ("pad_to_max", "packed", "per_sequence")
REUSES = ("none", "features", "tokens")
ANSWERS = ("last", "average", "vote")
