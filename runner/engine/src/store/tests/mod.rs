mod collect;
mod faults;
mod import;
mod kill;
