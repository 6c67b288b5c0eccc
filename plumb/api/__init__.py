"""The Python interface: `plumb.tune`, `plumb.DataLoader`, `@plumb.tuned`, `LoaderPlan`."""
