"""Pictures of models and of answers; importing them loads pyplot. Those of studies are methods: `comparison.plot()`."""

from cai.pictures.animations import animate_policy, save_animation
from cai.pictures.convergence import plot_convergence
from cai.pictures.drawing import LUCK_MAP, MASS_MAP, REAL_COLOR, TARGET_COLORS, VALUE_MAP, share_scale
from cai.pictures.gaussian_pictures import plot_bands, plot_gains, plot_luck_over_time, plot_value_contours
from cai.pictures.learning_pictures import plot_action_values, plot_learning
from cai.pictures.model_pictures import plot_model
from cai.pictures.path_pictures import plot_paths
from cai.pictures.plan_pictures import plot_plan
from cai.pictures.plots import plot_luck, plot_map, plot_messages, plot_values
from cai.pictures.world_pictures import plot_world

__all__ = [
    "LUCK_MAP",
    "MASS_MAP",
    "REAL_COLOR",
    "TARGET_COLORS",
    "VALUE_MAP",
    "animate_policy",
    "plot_action_values",
    "plot_bands",
    "plot_convergence",
    "plot_gains",
    "plot_learning",
    "plot_luck",
    "plot_luck_over_time",
    "plot_map",
    "plot_messages",
    "plot_model",
    "plot_paths",
    "plot_plan",
    "plot_value_contours",
    "plot_values",
    "plot_world",
    "save_animation",
    "share_scale",
]
