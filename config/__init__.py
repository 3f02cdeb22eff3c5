"""The models and the loader of organism.yaml, and the errors of the whole project."""

from threadloom.config.dotted import Importer
from threadloom.config.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    PermanentError,
    Problem,
    RegistryUnavailableError,
    ThreadloomError,
    TransientError,
    place,
)
from threadloom.config.loader import load, load_mapping, read, read_mapping
from threadloom.config.models import BackendConfig, ListenerConfig, OrganismConfig, OrganismSection
from threadloom.config.module_space import ModuleSpace, public
from threadloom.config.secrets import masked
from threadloom.config.settings import Settings

__all__ = [
    "BackendConfig",
    "BrokerUnavailableError",
    "ConfigurationError",
    "Importer",
    "ListenerConfig",
    "ModuleSpace",
    "OrganismConfig",
    "OrganismSection",
    "PermanentError",
    "Problem",
    "RegistryUnavailableError",
    "Settings",
    "ThreadloomError",
    "TransientError",
    "load",
    "load_mapping",
    "masked",
    "place",
    "public",
    "read",
    "read_mapping",
]

#: modules that others import from by their own names: the settings that Celery runs with
PUBLIC_MODULES = ("celery_settings",)
