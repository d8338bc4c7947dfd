"""How data flows from layer to layer of any net, read from the autograd graph of one forward pass.

The graph holds what was really computed, whatever code computed it: functional calls, attention and layers that are used
twice are seen as they are, and layers that are not used are not seen.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.func import functional_call

_PRODUCT = re.compile(r"(?!Upsample)\w*(Convolution|[mM]m|Linear|Attention)\w*Backward")
_JOIN = re.compile(r"(Cat|Stack|Mul)Backward")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; then every module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Graph:
    """The operations of one forward pass. A *product* is a convolution, a matrix product or an attention.

    Args:
        model: any net; stays as it is.
        example: float32 [1, C, H, W] in [0, 1].
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.is_floating_point()}
        self._names = {id(weight): name for name, weight in weights.items()}
        self._weights = weights  # keeps the ids unique
        self._image = example.detach().clone().requires_grad_()
        with evaluating(model), torch.enable_grad():
            self._logits = functional_call(model, weights, (self._image.clone(),))
        self._root = self._logits.grad_fn if isinstance(self._logits, Tensor) else None
        self._order = _inputs_first(self._root) if self._root is not None else []
        self._users: dict[Node, list[Node]] = defaultdict(list)
        self._parameter: dict[Node, str | None] = {}
        self._sources: dict[Node, frozenset[Node]] = {}
        for node in self._order:
            for child in _inputs(node):
                self._users[child].append(node)
            self._parameter[node] = self._read_parameter(node)
            self._sources[node] = self._read_sources(node)

    def products(self) -> list[tuple[str, Node]]:
        """(name of the weight, product) of all products of data with a parameter, in the order of computation."""
        named = ((self._weight(node), node) for node in self._order if _PRODUCT.match(node.name()) and self._data(node))
        return [(name, node) for name, node in named if name is not None]

    def is_hidden(self, product: Node) -> bool:
        """Whether all that a product gives goes on to other products with parameters, and to nothing else.

        On the way it may be changed, joined to others and multiplied by them, but not be added to others (a residual stream),
        normalised over channels, multiplied with data in an attention, or given out as a logit.
        """
        seen, left = {product}, [product]
        while left:
            node = left.pop()
            if node is self._root:
                return False
            for user in self._users[node]:
                if _PRODUCT.match(user.name()):
                    if self._weight(user) is None:
                        return False
                elif "Norm" in user.name() or not self._keeps_apart(user, product):
                    return False
                elif user not in seen:
                    seen.add(user)
                    left.append(user)
        return True

    def normalisation(self, product: Node) -> str | None:
        """Name of the scale of the normalisation that alone takes what ``product`` gives, as it is; None if there is none."""
        node = product
        while node is not self._root and len(self._users[node]) == 1:
            node = self._users[node][0]
            if "Norm" in node.name():
                return next((name for name in self._parameters(node) if name.endswith("weight")), None)
            if not re.match(r"(\w*View|Reshape\w*|Clone|Alias)Backward", node.name()):
                return None
        return None

    def attention(self, product: Node) -> Node | None:
        """The attention (weights of a softmax times values) whose output, rearranged, is all the data of ``product``."""
        data = self._data(product)
        found = self._origin(data[0])[0] if len(data) == 1 else None
        return found if found is not None and self._weight(found) is None and self._values(found) is not None else None

    def value_weight(self, attention: Node) -> str | None:
        """Name of the parameter that the values of ``attention`` are a product of; None if they are computed otherwise."""
        values = self._values(attention)
        origin = self._origin(values)[0] if values is not None else None
        return self._weight(origin) if origin is not None else None

    def head_sizes(self, attentions: list[Node]) -> dict[Node, int]:
        """Numbers that each head of these attentions gives, seen in one backward pass; without those it does not reach."""
        found: dict[Node, int] = {}
        for node in attentions:

            def see(grads: tuple[Tensor, ...], node: Node = node) -> None:
                found[node] = grads[0].shape[-1]

            node.register_prehook(see)
        if attentions:
            torch.autograd.grad(self._logits, self._image, torch.ones_like(self._logits), allow_unused=True)
        return found

    def _values(self, node: Node) -> Node | None:
        """The input of an attention that its weights are multiplied with; None if ``node`` is no attention."""
        data = self._data(node)
        if "Attention" in node.name():
            return data[2] if len(data) > 2 else None
        if len(data) != 2 or not any("Softmax" in name for name in self._origin(data[0])[1]):
            return None
        return data[1]

    def _origin(self, node: Node) -> tuple[Node | None, list[str]]:
        """(the product that alone ``node`` comes from, or None; names of the operations in between)."""
        passed: list[str] = []
        while not _PRODUCT.match(node.name()):
            passed.append(node.name())
            data = self._data(node)
            if len(data) != 1 or "Norm" in node.name():
                return None, passed
            node = data[0]
        return node, passed

    def _keeps_apart(self, node: Node, product: Node) -> bool:
        return len(self._data(node)) < 2 or bool(_JOIN.match(node.name())) or self._sources[node] == {product}

    def _data(self, node: Node) -> list[Node]:
        """Inputs that are no parameters."""
        return [child for child in _inputs(node) if self._parameter[child] is None]

    def _parameters(self, node: Node) -> list[str]:
        return [name for child in _inputs(node) if (name := self._parameter[child]) is not None]

    def _weight(self, product: Node) -> str | None:
        return next((name for name in self._parameters(product) if self._weights[name].ndim > 1), None)

    def _read_parameter(self, node: Node) -> str | None:
        """Name of the parameter that ``node`` is, or is a rearrangement of."""
        children = _inputs(node)
        if not children:
            return self._names.get(id(getattr(node, "variable", None)))
        return self._parameter[children[0]] if len(children) == 1 else None

    def _read_sources(self, node: Node) -> frozenset[Node]:
        """The nearest products, and leaves of the graph, that the data of ``node`` comes from; a product is its own source."""
        if _PRODUCT.match(node.name()) or not _inputs(node):
            return frozenset([node])
        return frozenset().union(*(self._sources[child] for child in self._data(node)))


def _inputs(node: Node) -> list[Node]:
    return [child for child, _ in node.next_functions if child is not None]


def _inputs_first(root: Node) -> list[Node]:
    """All nodes below ``root``, each after its inputs."""
    order: list[Node] = []
    seen: set[Node] = set()
    left: list[tuple[Node, bool]] = [(root, False)]
    while left:
        node, done = left.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            left.append((node, True))
            left += [(child, False) for child in _inputs(node)]
    return order
