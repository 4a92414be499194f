"""One thread for each test's arithmetic.

OpenMP's threads wait for one another by spinning: with two of them on two cores that others use too, the
small networks of these tests take up to a hundred times as long. Set before torch is first imported.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
