"""tf.data with AUTOTUNE: only the part of a JPEG that is needed is decoded, as TensorFlow's own ImageNet scripts do."""

import numpy as np
import tensorflow as tf

from analysis.apart.job import answer, read_job

_SIZE, _SCALE = 224, (0.25, 1.0)
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


def load(path, label):
    """Return a random square part of an image, flipped or not, normalised, channels first."""
    data = tf.io.read_file(path)
    height, width = tf.unstack(tf.io.extract_jpeg_shape(data)[:2])
    area = tf.cast(height * width, tf.float32) * tf.random.uniform([], *_SCALE)
    side = tf.minimum(tf.cast(tf.sqrt(area), tf.int32), tf.minimum(height, width))
    top = tf.random.uniform([], 0, height - side + 1, tf.int32)
    left = tf.random.uniform([], 0, width - side + 1, tf.int32)
    image = tf.image.decode_and_crop_jpeg(data, tf.stack([top, left, side, side]), channels=3)
    image = tf.image.random_flip_left_right(tf.image.resize(image, [_SIZE, _SIZE]))
    return tf.transpose((image / 255 - _MEAN) / _STD, [2, 0, 1]), label


def make(job, batches, for_ever):
    """Return the images in the given order, or, for ever, in whatever order they are ready."""
    chosen = [job.images[index] for batch in batches for index in batch]
    paths, labels = zip(*chosen, strict=True)
    dataset = tf.data.Dataset.from_tensor_slices((list(paths), list(labels)))
    dataset = dataset.repeat() if for_ever else dataset
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=not for_ever)
    return dataset.batch(len(batches[0])).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


if __name__ == "__main__":
    job = read_job()
    answer(job, lambda batches, for_ever: make(job, batches, for_ever), ["tensorflow-cpu"])
