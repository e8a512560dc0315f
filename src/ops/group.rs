//! Items that are recorded together: a batch, or what one session had done
//! while the previous record was written.

use std::collections::BTreeMap;

use super::crypt::{Decrypted, Encrypted, Item};
use super::done::{Done, items};
use super::vault::Vault;
use super::{Error, crypt};
use crate::access::{Authorized, permission};
use crate::audit::ItemDigest;
use crate::envelope::Context;

/// Results that wait for their common record.
#[derive(Debug)]
pub struct Group<T> {
    results: Vec<Result<T, Error>>,
    digests: Vec<ItemDigest>,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self { results: Vec::new(), digests: Vec::new() }
    }
}

impl<T> Group<T> {
    /// An empty group with room.
    pub fn with_capacity(items: usize) -> Self {
        Self { results: Vec::with_capacity(items), digests: Vec::with_capacity(items) }
    }

    /// Adds one result.
    pub fn add(&mut self, outcome: Result<Item<T>, Error>) {
        self.results.push(outcome.map(|item| {
            self.digests.push(item.digest);
            item.value
        }));
    }

    /// Whether any item was done, so was allowed.
    pub fn any_done(&self) -> bool {
        !self.digests.is_empty()
    }

    /// Closes the group; its results are in the order in which they were added.
    pub fn done(self, keep_digests: bool) -> Done<Vec<Result<T, Error>>> {
        let refused = self.results.len() - self.digests.len();
        let refusals = self.refusals();
        let fault = self.results.iter().any(|result| result.as_ref().is_err_and(|error| !error.is_refusal()));
        let done = Done::with_items(self.results, items(self.digests, refused, keep_digests)).fault(fault);
        match refusals {
            Some(refusals) => done.detail(refusals),
            None => done,
        }
    }

    /// How many items were refused for which reason, in words.
    fn refusals(&self) -> Option<String> {
        let mut counts = BTreeMap::<&str, usize>::new();
        for error in self.results.iter().filter_map(|result| result.as_ref().err()) {
            *counts.entry(error.reason().as_str()).or_default() += 1;
        }
        let words: Vec<_> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        (!words.is_empty()).then(|| format!("refused: {}", words.join(", ")))
    }
}

impl Vault {
    /// Whether records of decrypts list the digest of each item.
    pub fn lists_decrypted_items(&self) -> bool {
        self.settings().list_decrypted_items
    }

    /// Encrypts many fields under one key. A context that is not one fails its item alone.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when the batch is over a limit; errors of an item are in its result.
    pub async fn batch_encrypt(
        &self,
        right: &Authorized<permission::Encrypt>,
        batch: &[(Result<Context, Error>, &[u8])],
    ) -> Result<Done<Vec<Result<Encrypted, Error>>>, Error> {
        self.check_batch(batch)?;
        let mut group = Group::with_capacity(batch.len());
        for (context, plaintext) in batch {
            group.add(match context {
                Ok(context) => self.encrypt_item(right, context, plaintext).await,
                Err(error) => Err(Error::Argument(error.to_string())),
            });
        }
        Ok(group.done(false))
    }

    /// Decrypts many fields of one key.
    ///
    /// # Errors
    /// As [`batch_encrypt`](Self::batch_encrypt).
    pub async fn batch_decrypt(
        &self,
        right: &Authorized<permission::Decrypt>,
        batch: &[(Result<Context, Error>, &[u8])],
    ) -> Result<Done<Vec<Result<Decrypted, Error>>>, Error> {
        self.check_batch(batch)?;
        let mut group = Group::with_capacity(batch.len());
        for (context, ciphertext) in batch {
            group.add(match context {
                Ok(context) => self.decrypt_item(right, context, ciphertext).await,
                Err(error) => Err(Error::Argument(error.to_string())),
            });
        }
        Ok(group.done(self.lists_decrypted_items()))
    }

    /// Checks the number of items, before contexts are made of them.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when they are too many.
    pub fn check_items(&self, size: usize) -> Result<(), Error> {
        let limit = self.settings().limits.batch_items;
        let (what, unit, option) = ("the batch", "items", "batch_items");
        match size > limit {
            true => Err(Error::TooLarge { what, size, unit, limit, option }),
            false => Ok(()),
        }
    }

    fn check_batch(&self, batch: &[(Result<Context, Error>, &[u8])]) -> Result<(), Error> {
        self.check_items(batch.len())?;
        let bytes = batch.iter().map(|(_, bytes)| bytes.len()).sum();
        crypt::too_large("the batch", bytes, self.settings().limits.batch.as_usize(), "batch")
    }
}
