import pytest

from amdjax.errors import UserError
from amdjax.losses import build_objective
from amdjax.models import create_model
from amdjax.training.dummy_outputs import output_shapes
from amdjax.training.loss_checks import check_stored_sizes


def test_check_stored_sizes_refuses_maps_that_would_be_pooled():
    model = create_model("resnet8", 4)
    student, teacher = output_shapes(model, (16, 16, 3)), output_shapes(model, (32, 32, 3))
    with pytest.raises(UserError, match=r"stage1 \(32x32\) is larger than the student's \(16x16\)"):
        check_stored_sizes(build_objective({"at": {}}), student, teacher)
