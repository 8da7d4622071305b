"""A model's shapes, and the numbers of weights that follow from them."""

from pydantic import PositiveInt

from quantize.key import Frozen

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
"""Linear layers of the MLP; each expert has its own."""


class Architecture(Frozen):
    """Shapes of a decoder-only model with grouped-query attention and a gated MLP. Sizes are numbers of elements."""

    layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    tied_embeddings: bool
    experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    qkv_bias: bool = False
    """Whether the projections to queries, keys and values add a bias (Qwen2)."""
    qk_norm: bool = False
    """Whether queries and keys are normalised, head by head (Qwen3)."""

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return {name: (output rows, input columns)} of each kind of linear layer that is quantized."""
        mlp = self.moe_intermediate_size if self.experts else self.intermediate_size
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (query, self.hidden_size),
            "k_proj": (key, self.hidden_size),
            "v_proj": (key, self.hidden_size),
            "o_proj": (self.hidden_size, query),
            "gate_proj": (mlp, self.hidden_size),
            "up_proj": (mlp, self.hidden_size),
            "down_proj": (self.hidden_size, mlp),
        }

    def attention_parameters(self) -> int:
        """Return the number of weights in the linear layers of one decoder layer's attention."""
        shapes = self.linear_shapes()
        return sum(shapes[name][0] * shapes[name][1] for name in ATTENTION)

    def mlp_parameters(self) -> int:
        """Return the number of weights in one decoder layer's MLP, or in one of its experts."""
        shapes = self.linear_shapes()
        return sum(shapes[name][0] * shapes[name][1] for name in MLP)

    def layer_parameters(self) -> int:
        """Return the number of weights in the quantized linear layers of one decoder layer."""
        return self.attention_parameters() + max(1, self.experts) * self.mlp_parameters()

    def linear_parameters(self) -> int:
        """Return the number of weights in the quantized linear layers of all decoder layers."""
        return self.layers * self.layer_parameters()

    def active_linear_parameters(self) -> int:
        """Return the number of weights in the quantized linear layers that one token is multiplied with."""
        used = self.experts_per_token if self.experts else 1
        return self.layers * (self.attention_parameters() + used * self.mlp_parameters())

    def small_parameters(self) -> int:
        """Return the number of weights in norms and biases: never quantized, and below a thousandth of the rest."""
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * (biases + norms) + self.hidden_size

    def parameters(self) -> int:
        """Return the number of all weights of the model."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        routers = self.layers * self.experts * self.hidden_size
        return self.linear_parameters() + embeddings + routers + self.small_parameters()
