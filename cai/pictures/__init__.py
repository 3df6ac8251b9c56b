"""Pictures of models, answers and studies."""
