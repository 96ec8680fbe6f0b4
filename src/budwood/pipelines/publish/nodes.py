"""Publish an export."""

import logging

from budwood.models.checkpoint import Checkpoint
from budwood.models.hub import push
from budwood.models.settings import PushSettings
from budwood.records.names import Variant

logger = logging.getLogger(__name__)


def publish_model(model: Checkpoint, settings: PushSettings, *, variant: Variant) -> str:
    """Upload an export, or report what would be uploaded; return that report.

    Raises:
        ValueError: there is no access token, or the Hub refuses.
    """
    report = push(model.folder, settings.of(variant)).describe()
    logger.info("%s: %s", variant, report)
    return report
