mod child;
mod concurrency;
mod failure;
mod freshness;
mod locked;
mod reasons;
mod scale;
mod selection;
