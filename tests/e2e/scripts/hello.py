import sys

print("hello", sorted({"torch", "numpy", "rich", "h5py", "pandas"} & set(sys.modules)))
