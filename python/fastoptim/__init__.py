"""Fused optimizer updates for NumPy arrays: in place, at the speed of memory, with the same bits everywhere.

>>> import numpy as np, fastoptim as fo
>>> params = {"w": np.ones((3, 2), np.float32), "b": np.zeros(2, np.float32)}
>>> opt = fo.Adam(params, lr=0.1)
>>> opt.step({"w": np.ones((3, 2), np.float32), "b": np.array([1, -1], np.float32)})
>>> params["b"].round(4)
array([-0.1,  0.1], dtype=float32)
"""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING

from . import _interpreter as _interpreter
from . import functional as functional
from . import reference as reference
from .arrays.rows import Rows as Rows
from .core import build_info as build_info
from .early_stopping import EarlyStopping as EarlyStopping
from .lbfgs.optimizer import LBFGS as LBFGS
from .loss_scale import LossScaler as LossScaler
from .matrix.adafactor import Adafactor as Adafactor
from .matrix.adam_mini import AdamMini as AdamMini
from .matrix.came import CAME as CAME
from .matrix.muon import Muon as Muon
from .matrix.muon import NorMuon as NorMuon
from .matrix.shampoo import Shampoo as Shampoo
from .matrix.sm3 import SM3 as SM3
from .matrix.soap import SOAP as SOAP
from .norms import adaptive_clip as adaptive_clip
from .norms import global_norm as global_norm
from .optimizer.base import OPTIMIZERS as OPTIMIZERS
from .optimizer.base import Optimizer as Optimizer
from .optimizer.mixed import Mixed as Mixed
from .optimizer.saving import load as load
from .optimizer.saving import save as save
from .options.suggestions import did_you_mean as _did_you_mean
from .rules.adabelief import AdaBelief as AdaBelief
from .rules.adabound import AdaBound as AdaBound
from .rules.adadelta import Adadelta as Adadelta
from .rules.adagrad import Adagrad as Adagrad
from .rules.adam import Adam as Adam
from .rules.adamax import Adamax as Adamax
from .rules.adamw import AdamW as AdamW
from .rules.adan import Adan as Adan
from .rules.ademamix import AdEMAMix as AdEMAMix
from .rules.adopt import ADOPT as ADOPT
from .rules.aggmo import AggMo as AggMo
from .rules.asgd import ASGD as ASGD
from .rules.ftrl import FTRL as FTRL
from .rules.lamb import LAMB as LAMB
from .rules.laprop import LaProp as LaProp
from .rules.lars import LARS as LARS
from .rules.lion import Lion as Lion
from .rules.madgrad import MADGRAD as MADGRAD
from .rules.mars import MARS as MARS
from .rules.momentum import Momentum as Momentum
from .rules.msvag import MSVAG as MSVAG
from .rules.nadam import NAdam as NAdam
from .rules.nag import NAG as NAG
from .rules.novograd import NovoGrad as NovoGrad
from .rules.prodigy import Prodigy as Prodigy
from .rules.qhadam import QHAdam as QHAdam
from .rules.qhm import QHM as QHM
from .rules.radam import RAdam as RAdam
from .rules.rmsprop import RMSprop as RMSprop
from .rules.rmsprop_graves import RMSpropGraves as RMSpropGraves
from .rules.rowwise_adagrad import RowwiseAdagrad as RowwiseAdagrad
from .rules.rowwise_adam import RowwiseAdam as RowwiseAdam
from .rules.rprop import Rprop as Rprop
from .rules.schedule_free import ScheduleFreeAdamW as ScheduleFreeAdamW
from .rules.schedule_free import ScheduleFreeSGD as ScheduleFreeSGD
from .rules.sgd import SGD as SGD
from .rules.sgdw import SGDW as SGDW
from .rules.signsgd import SignSGD as SignSGD
from .rules.signum import Signum as Signum
from .rules.smorms3 import SMORMS3 as SMORMS3
from .rules.sophia import Sophia as Sophia
from .rules.stable_adamw import StableAdamW as StableAdamW
from .rules.tiger import Tiger as Tiger
from .rules.yogi import Yogi as Yogi
from .sgld import SGLD as SGLD
from .threads import get_num_threads as get_num_threads
from .threads import set_num_threads as set_num_threads
from .threads import set_threading as set_threading
from .threads import thread_info as thread_info
from .wrappers.grokfast import GrokFast as GrokFast
from .wrappers.lookahead import Lookahead as Lookahead
from .wrappers.sam import SAM as SAM

__version__: str = build_info()["version"]

if _TYPE_CHECKING:
    from . import schedules as schedules

_MODULES = ("distributed", "functional", "reference", "schedules")
__all__ = sorted(
    {name for name, value in globals().items() if not name.startswith("_") and not isinstance(value, _ModuleType)}
    | set(_MODULES)
)


def __getattr__(name: str) -> _ModuleType:
    """Import `schedules` and `distributed` on first use, which saves a fifth of the import time."""
    if name in ("distributed", "schedules"):
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_did_you_mean(name, __dir__())}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
