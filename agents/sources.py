"""Makes the views of the context that a worker's workflows look at: one for each topic, whoever looks at it."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from agents.shell import StreamApp
from pipeline.config import Settings
from pipeline.context.entries import ViewLimits
from pipeline.context.view import TopicView
from pipeline.errors import ConfigError
from pipeline.topics import Topics
from pipeline.workflow import Workflow

log = logging.getLogger(__name__)


def context_views(
    settings: Settings, config: Mapping[str, Any], topics: Topics, workflows: Iterable[Workflow]
) -> Mapping[str, TopicView]:
    """The views by the names of their topics, not started. ConfigError when topics.yaml has no such topic."""
    limits = ViewLimits(settings.context_max_entries, settings.context_max_bytes, settings.context_patience_s)
    views: dict[str, TopicView] = {}
    for workflow in workflows:
        for rule in workflow.context:
            if rule.topic in views:
                continue
            try:
                physical = topics.physical(settings.environment, rule.topic)
            except ConfigError as error:
                raise ConfigError(f"{workflow.folder / 'workflow.yaml'}: context {rule.name}: {error}") from None
            views[rule.topic] = TopicView(config, physical, rule.topic, limits)
    return views


def start_before_stages(app: StreamApp, views: Mapping[str, TopicView]) -> None:
    """The app's stages start when all views are caught up, and the worker ends when one of them fails."""

    async def start() -> None:
        if views:
            log.info("reading what is known of %s", ", ".join(sorted(views)))
        try:
            await asyncio.gather(*(view.start() for view in views.values()))
        except BaseException:
            await asyncio.gather(*(view.close() for view in views.values()))
            raise
        app.watched += [view.failed for view in views.values() if view.failed is not None]

    app.before_stages.append(start)
