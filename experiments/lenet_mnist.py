"""LeNet-5 on MNIST: LeCun et al. (1998, section III) report 0.95 % test error, and 0.8 % with distorted images, as here.

./launch.sh train lenet_mnist --data_dir=DIR

Measured: 0.56 % test error after 20 epochs, mean of 3 seeds (0.54 to 0.60), 58 s on 2 cores of AMD EPYC, jax
0.10.1.
"""

from jaxcnn import AugmentConfig, Config, DataConfig, LogConfig, ModelConfig, OptimizerConfig, ScheduleConfig

config = Config(
    epochs=20,
    steps_per_execution=20,
    model=ModelConfig("lenet5"),
    data=DataConfig("mnist", batch_size=64, image_size=32, fit="pad"),
    augment=AugmentConfig(shift=2, rotate=10, zoom=0.1, shear=0.1),
    optimizer=OptimizerConfig("sgd", learning_rate=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=ScheduleConfig("cosine", warmup=0.05),
    log=LogConfig(every=100),
)
