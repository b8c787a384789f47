"""What changes when a setting of training changes: trainings, videos, numbers and judges of a study."""
