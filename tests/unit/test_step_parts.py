"""Parts of the step compiler: chains of operations become instructions, views move no element."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from loralith.compiler.step.chains import Scalar, Step, TensorOperand, instructions_of, parts_of
from loralith.compiler.step.views import Buffer, View, expand, permute, reshape, row_major, slice_view
from loralith.spec.commands import VectorFormat
from loralith.spec.graph import Op

# Chains of operations.


def steps(*names: str) -> list[Step]:
    made: dict[str, Callable[[], Step]] = {
        "x s": lambda: Step(Op.MULTIPLY, Scalar("s", 0)),
        "x t": lambda: Step(Op.MULTIPLY, Scalar("t", 0)),
        "+ s": lambda: Step(Op.ADD, Scalar("s", 0)),
        "+ t": lambda: Step(Op.ADD, Scalar("t", 0)),
        "s -": lambda: Step(Op.SUBTRACT, Scalar("s", 0), reverse=True),
        "x y": lambda: Step(Op.MULTIPLY, TensorOperand(0)),
        "+ z": lambda: Step(Op.ADD, TensorOperand(1)),
        "exp2": lambda: Step(Op.EXP2),
        "brain": lambda: Step(Op.BRAIN),
    }
    return [made[name]() for name in names]


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (("x s", "+ s", "exp2", "x t", "+ t", "brain"), 1),
        (("x s", "+ t", "brain"), 1),  # the second scalar goes to the second pair
        (("exp2", "exp2"), 2),
        (("x y", "+ z"), 2),  # one second stream an instruction
        (("x s", "s -"), 1),
        (("exp2", "s -"), 2),
        (("brain", "x s"), 2),
    ],
)
def test_a_chain_takes_as_few_instructions_as_its_stages_allow(names: Sequence[str], count: int) -> None:
    assert len(instructions_of(steps(*names))) == count


def test_a_vector_command_reads_two_tensors_at_most() -> None:
    chain = instructions_of([Step(Op.ADD, TensorOperand(i)) for i in range(5)])
    assert [len(part) for part in parts_of(chain)] == [2, 2, 1]


# Views.


def test_views_are_numpys() -> None:
    random = np.random.default_rng(0)
    array = np.arange(2 * 3 * 4 * 6)
    checked = 0
    for _ in range(300):
        buffer = Buffer("x", VectorFormat.FP32, array.size, array.size, array.size)
        view, want = View(buffer, (2, 3, 4, 6), row_major((2, 3, 4, 6))), array.reshape(2, 3, 4, 6)
        for _ in range(3):
            choice = random.integers(4)
            if choice == 0:
                order = random.permutation(len(view.shape))
                view, want = permute(view, order), want.transpose(order)
            elif choice == 1 and view.shape[0] > 1:
                view, want = slice_view(view, 0, 1, view.shape[0], 2), want[1::2]
            elif choice == 2:
                view, want = expand(view, (2, *view.shape)), np.broadcast_to(want, (2, *want.shape))
            else:
                sizes = [int(n) for n in random.permutation([want.size // 2, 2, 1])] if want.size % 2 == 0 else [want.size]
                found = reshape(view, sizes)
                if found is None:
                    break
                view, want = found, want.reshape(sizes)
            index = np.zeros(view.shape, np.int64) + view.offset
            for d, stride in enumerate(view.strides):
                index += np.arange(view.shape[d]).reshape(-1, *[1] * (len(view.shape) - d - 1)) * stride
            np.testing.assert_array_equal(array[index], want)
            checked += 1
    assert checked > 500
