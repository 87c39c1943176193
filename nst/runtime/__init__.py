"""The machine: device, precision, threads, seeds, memory, signals. Knows nothing of pictures or files."""

from nst.runtime.devices import PRECISIONS as PRECISIONS
from nst.runtime.devices import choose_device as choose_device
from nst.runtime.devices import choose_precision as choose_precision
from nst.runtime.devices import device_name as device_name
from nst.runtime.devices import device_problem as device_problem
from nst.runtime.devices import give_back_freed_memory as give_back_freed_memory
from nst.runtime.devices import has_native_bfloat16 as has_native_bfloat16
from nst.runtime.devices import keep_freed_memory as keep_freed_memory
from nst.runtime.devices import network_dtype as network_dtype
from nst.runtime.devices import own_device as own_device
from nst.runtime.devices import peak_memory_bytes as peak_memory_bytes
from nst.runtime.devices import pixel_dtype as pixel_dtype
from nst.runtime.devices import precision_problem as precision_problem
from nst.runtime.devices import prepare as prepare
from nst.runtime.devices import seeded as seeded
from nst.runtime.devices import threads as threads
from nst.runtime.signals import Interrupted as Interrupted
from nst.runtime.signals import PoliteStop as PoliteStop
