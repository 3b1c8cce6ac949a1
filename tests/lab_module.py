"""A module of a user, which registers a loss and a method, and a recipe."""

LAB = """
import amdjax

@amdjax.register_loss("gap", "a loss", inputs=("student.logits", "teacher.logits"), weight=0.5)
def gap(student, teacher, scale=1.0):
    return scale * (student - teacher)[:, 0] ** 2

amdjax.register_method("gap_only", "a method", {"gap": {}})
"""
RECIPE = """
from amdjax.configs import default

def get_config():
    config = default.get_config(%s)
    %s
    config.methods = ("gap_only",)
    return config
"""
