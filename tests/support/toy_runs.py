"""A grid of toys that runs in the process of a test."""

GRID = """
models: [toy]
methods: [{methods}]
ratios: [0.25, 0.5, 0.75]
tasks: [toy_sum, {task}]
resources: {{time: {limit}}}
"""


TWICE = "{name: toy_sum, by: 2}"


class Silent:
    """A watcher that shows nothing."""

    def event(self, job, trial, event) -> None:
        """Nothing."""
