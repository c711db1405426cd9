//! What running stages share: threads, memory, the accelerator, places.

use luthier_core::Resources;

/// What one running stage holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub threads: usize,
    memory: u64,
    gpu: bool,
}

/// What is left. A stage that asks for more than there is altogether gets all of it and runs alone.
#[derive(Debug)]
pub(crate) struct Tokens {
    all_threads: usize,
    all_memory: u64,
    threads: usize,
    memory: u64,
    gpu: bool,
    places: usize,
}

impl Tokens {
    pub fn new(threads: usize, memory: Option<u64>, jobs: Option<usize>) -> Self {
        let (threads, memory) = (threads.max(1), memory.unwrap_or(u64::MAX));
        Self {
            all_threads: threads,
            all_memory: memory,
            threads,
            memory,
            gpu: true,
            places: jobs.unwrap_or(usize::MAX).max(1),
        }
    }

    /// Takes what the stage declares, if it is free.
    pub fn take(&mut self, wanted: Resources) -> Option<Grant> {
        let threads = if wanted.threads == 0 { self.all_threads } else { wanted.threads.min(self.all_threads) };
        let memory = wanted.memory.min(self.all_memory);
        let fits = threads <= self.threads && memory <= self.memory && (!wanted.gpu || self.gpu) && self.places > 0;
        if !fits {
            return None;
        }
        self.threads -= threads;
        self.memory -= memory;
        self.places -= 1;
        self.gpu &= !wanted.gpu;
        Some(Grant { threads, memory, gpu: wanted.gpu })
    }

    pub fn give_back(&mut self, grant: Grant) {
        self.threads += grant.threads;
        self.memory += grant.memory;
        self.places += 1;
        self.gpu |= grant.gpu;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_never_exceed_what_there_is() {
        let mut tokens = Tokens::new(4, Some(100), Some(3));
        let wide = tokens.take(Resources::ALL_THREADS).expect("all threads are free");
        assert_eq!(wide.threads, 4);
        assert_eq!(tokens.take(Resources::ONE_THREAD), None);
        tokens.give_back(wide);
        let gpu = Resources { threads: 1, memory: 500, gpu: true };
        let first = tokens.take(gpu).expect("asking for more memory than there is gets all");
        assert_eq!(tokens.take(gpu), None);
        assert!(tokens.take(Resources::ONE_THREAD).is_some());
        assert!(tokens.take(Resources::ONE_THREAD).is_some());
        assert_eq!(tokens.take(Resources::ONE_THREAD), None, "three jobs at most");
        tokens.give_back(first);
        assert!(tokens.take(gpu).is_some());
    }
}
