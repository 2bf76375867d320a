"""The one training loop that all applications share: task-agnostic, resumable to the exact step.

The user brings a model, a function that turns a batch into losses, and a function that evaluates; the loop brings mixed
precision, several processes, seeds, schedules, checkpoints and metrics. Import from the modules themselves:
``loop`` (:func:`~shoal_earth.training.loop.Fit`), ``data`` (batches), ``optim`` (optimizers, schedules),
``checkpoint`` (atomic files), ``weights`` (pretrained starts), ``distributed`` (processes, devices, seeds), ``precision``,
``average`` (of the weights), ``settings`` (what every training lets a user choose).
"""
