"""From the ring in host memory to the engines: fetch, decode, queues, semaphores, faults, registers."""
