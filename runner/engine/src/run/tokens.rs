//! What running stages share: threads, memory, accelerators, places.

use luthier_core::Resources;

/// What one running stage holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub threads: usize,
    /// Accelerators by name.
    pub gpus: Vec<String>,
    memory: u64,
    /// It runs elsewhere and holds nothing of this machine but a place.
    here: bool,
}

/// What is left. A stage that asks for more threads or memory than there is altogether gets all of it and runs alone.
#[derive(Debug)]
pub(crate) struct Tokens {
    all_threads: usize,
    all_memory: u64,
    threads: usize,
    memory: u64,
    gpus: Vec<String>,
    places: usize,
}

impl Tokens {
    pub fn new(threads: usize, memory: Option<u64>, gpus: Vec<String>, jobs: Option<usize>) -> Self {
        let (threads, memory) = (threads.max(1), memory.unwrap_or(u64::MAX));
        Self {
            all_threads: threads,
            all_memory: memory,
            threads,
            memory,
            gpus,
            places: jobs.unwrap_or(usize::MAX).max(1),
        }
    }

    /// Takes what the stage declares, if it is free.
    pub fn take(&mut self, wanted: Resources, here: bool) -> Option<Grant> {
        if self.places == 0 {
            return None;
        }
        if !here {
            self.places -= 1;
            let threads = if wanted.threads == 0 { self.all_threads } else { wanted.threads };
            return Some(Grant { threads, gpus: Vec::new(), memory: 0, here });
        }
        let threads = if wanted.threads == 0 { self.all_threads } else { wanted.threads.min(self.all_threads) };
        let memory = wanted.memory.min(self.all_memory);
        let gpus = wanted.gpu as usize;
        if threads > self.threads || memory > self.memory || gpus > self.gpus.len() {
            return None;
        }
        self.threads -= threads;
        self.memory -= memory;
        self.places -= 1;
        Some(Grant { threads, gpus: self.gpus.drain(..gpus).collect(), memory, here })
    }

    pub fn give_back(&mut self, grant: Grant) {
        self.places += 1;
        if grant.here {
            self.threads += grant.threads;
            self.memory += grant.memory;
            self.gpus.extend(grant.gpus);
            self.gpus.sort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| at.to_string()).collect()
    }

    #[test]
    fn grants_never_exceed_what_there_is() {
        let mut tokens = Tokens::new(4, Some(100), names(1), Some(3));
        let wide = tokens.take(Resources::ALL_THREADS, true).expect("all threads are free");
        assert_eq!(wide.threads, 4);
        assert_eq!(tokens.take(Resources::ONE_THREAD, true), None);
        tokens.give_back(wide);
        let gpu = Resources { memory: 500, gpu: 1, ..Resources::ONE_THREAD };
        let first = tokens.take(gpu, true).expect("asking for more memory than there is gets all");
        assert_eq!(tokens.take(gpu, true), None);
        assert!(tokens.take(Resources::ONE_THREAD, true).is_some());
        assert!(tokens.take(Resources::ONE_THREAD, true).is_some());
        assert_eq!(tokens.take(Resources::ONE_THREAD, true), None, "three jobs at most");
        tokens.give_back(first);
        assert!(tokens.take(gpu, true).is_some());
    }

    #[test]
    fn accelerators_are_handed_out_by_name() {
        let mut tokens = Tokens::new(8, None, names(3), None);
        let two = tokens.take(Resources { gpu: 2, ..Resources::ONE_THREAD }, true).expect("two of three");
        let one = tokens.take(Resources { gpu: 1, ..Resources::ONE_THREAD }, true).expect("the third");
        assert_eq!((two.gpus.as_slice(), one.gpus.as_slice()), (&names(2)[..], &["2".to_owned()][..]));
        assert_eq!(tokens.take(Resources { gpu: 1, ..Resources::ONE_THREAD }, true), None);
        tokens.give_back(two);
        let again = tokens.take(Resources { gpu: 1, ..Resources::ONE_THREAD }, true).expect("the first is free again");
        assert_eq!(again.gpus, ["0"]);
    }

    #[test]
    fn stages_elsewhere_take_only_a_place() {
        let mut tokens = Tokens::new(1, Some(10), Vec::new(), Some(2));
        let far = Resources { threads: 64, memory: 1 << 40, gpu: 8, time: 0 };
        assert_eq!(tokens.take(far, false).map(|grant| grant.threads), Some(64));
        let here = tokens.take(Resources::ALL_THREADS, true).expect("this machine is free");
        assert_eq!(tokens.take(far, false), None, "two places");
        tokens.give_back(here);
        assert!(tokens.take(far, false).is_some());
    }
}
