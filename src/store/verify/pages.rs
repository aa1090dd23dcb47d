//! The pages of data.mdb in the format of LMDB 0.9, read with pread(2). LMDB itself reads pages through a memory map and
//! trusts what is on them, so that a damaged page can end its process. Here, each page is checked before it is used.
//!
//! A page is: number u64, unused u16, kind u16, lower u16, upper u16 (of the first overflow page: page count u32), and then the
//! places of the nodes, u16 each, up to `lower`. The nodes fill the page from `upper` to its end, without gaps. A node is: size
//! of the value u32, flags u16, size of the key u16, key, value. On a branch page, the first three fields are the number of a
//! page. Numbers have the byte order of the machine.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

const HEADER_BYTES: usize = 16;
const NODE_BYTES: usize = 8;
/// The size of a value that is the number of its first overflow page.
const PAGE_NUMBER_BYTES: usize = 8;
const KEY_BYTES_MAX: usize = 511;
/// The maximum number of levels of a tree.
const DEPTH_MAX: u16 = 32;
/// The root of an empty tree.
const NO_PAGE: u64 = u64::MAX;

/// The kinds of pages.
mod kind {
    pub const BRANCH: u16 = 1;
    pub const LEAF: u16 = 2;
    pub const OVERFLOW: u16 = 4;
}

/// The flags of a node.
mod flag {
    /// The value is on overflow pages.
    pub const OVERFLOW: u16 = 1;
    /// The value is a [`Tree`](super::Tree).
    pub const TREE: u16 = 2;
}

/// The flag of a tree whose keys are integers.
pub const INTEGER_KEY: u16 = 8;

/// A page that must not be used, and the reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadPage {
    pub page: u64,
    pub why: String,
}

type Result<T, E = BadPage> = std::result::Result<T, E>;

fn bad<T>(page: u64, why: impl Into<String>) -> Result<T> {
    Err(BadPage { page, why: why.into() })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// A tree of pages, which holds the rows of one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tree {
    pub flags: u16,
    depth: u16,
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    /// The number of rows.
    pub rows: u64,
    root: u64,
}

impl Tree {
    pub const BYTES: usize = 48;

    /// Decodes a value of this size.
    pub fn decode(value: &[u8]) -> Self {
        Self {
            flags: u16_at(value, 4),
            depth: u16_at(value, 6),
            branch_pages: u64_at(value, 8),
            leaf_pages: u64_at(value, 16),
            overflow_pages: u64_at(value, 24),
            rows: u64_at(value, 32),
            root: u64_at(value, 40),
        }
    }

    /// A tree of one leaf page.
    fn of_leaf(flags: u16, page: u64) -> Self {
        Self { flags, depth: 1, branch_pages: 0, leaf_pages: 1, overflow_pages: 0, rows: 0, root: page }
    }

    fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        // The size of an integer was checked.
        if self.flags & INTEGER_KEY == 0 { a.cmp(b) } else { u64_at(a, 0).cmp(&u64_at(b, 0)) }
    }
}

/// One of the two meta pages. It holds the state of the file after one transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    pub page_bytes: usize,
    /// The pages that are not used by this state.
    pub free: Tree,
    /// The names of the tables.
    pub main: Tree,
    pub last_page: u64,
    /// The number of the transaction.
    pub txn: u64,
}

impl Meta {
    const BYTES: usize = 152;
    const MAGIC: u32 = 0xbeef_c0de;
    const VERSION: u32 = 1;
    /// The kind of a meta page.
    const KIND: u16 = 8;

    /// Reads the meta page 0 or 1 of a file with this page size.
    pub fn read(file: &File, page: u64, page_bytes: usize) -> Result<Self> {
        let mut bytes = [0; Self::BYTES];
        read_at(file, &mut bytes, page, page * page_bytes as u64)?;
        if u64_at(&bytes, 0) != page || u16_at(&bytes, 10) != Self::KIND || u32_at(&bytes, 16) != Self::MAGIC {
            return bad(page, "is no meta page");
        }
        if u32_at(&bytes, 20) != Self::VERSION {
            return bad(page, "is in the format of another version of LMDB");
        }
        let (free, main) = (Tree::decode(&bytes[40..88]), Tree::decode(&bytes[88..136]));
        let this = Self {
            page_bytes: u32_at(&bytes, 40) as usize,
            free,
            main,
            last_page: u64_at(&bytes, 136),
            txn: u64_at(&bytes, 144),
        };
        match this.page_bytes {
            size if !(512..=32768).contains(&size) || !size.is_power_of_two() => bad(page, "has an impossible page size"),
            _ if free.flags & INTEGER_KEY == 0 || main.flags != 0 => bad(page, "has impossible flags"),
            // Each transaction writes the meta page that the one before has not written.
            _ if this.txn % 2 != page && this.txn != 0 => bad(page, "has the number of a transaction of the other meta page"),
            _ if this.last_page == 0 => bad(page, "counts no pages"),
            _ => Ok(this),
        }
    }

    /// A state whose pages are those of the whole file, of the usual size, and whose tables are not known.
    pub fn unknown() -> Self {
        let none = Tree::of_leaf(0, NO_PAGE);
        Self { page_bytes: 4096, free: none, main: none, last_page: u64::MAX, txn: 0 }
    }

    /// The page size, as the first meta page says it. Reads nothing else.
    pub fn page_size(file: &File) -> Result<usize> {
        let mut bytes = [0; 4];
        read_at(file, &mut bytes, 0, 40)?;
        Ok(u32::from_ne_bytes(bytes) as usize)
    }
}

fn read_at(file: &File, bytes: &mut [u8], page: u64, at: u64) -> Result<()> {
    file.read_exact_at(bytes, at).or_else(|err| match err.kind() {
        io::ErrorKind::UnexpectedEof => bad(page, "is behind the end of the file"),
        _ => bad(page, format!("cannot be read: {err}")),
    })
}

/// A set of pages: one bit for each page of the file.
#[derive(Default)]
pub struct PageSet(Vec<u64>);

impl PageSet {
    fn add(&mut self, page: u64) -> bool {
        let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    fn has(&self, page: u64) -> bool {
        self.0[(page / 64) as usize] & 1 << (page % 64) != 0
    }
}

/// The value of a row.
pub struct Value<'a> {
    pub bytes: &'a [u8],
    /// The value is a [`Tree`].
    pub is_tree: bool,
    /// The leaf page of the row.
    pub page: u64,
}

/// The pages of one state of the file.
pub struct Pages {
    file: File,
    page_bytes: usize,
    /// The number of pages.
    count: u64,
}

/// Looks up single rows, and keeps pages in memory.
pub struct Lookup {
    pages: Rc<Pages>,
    cache: Vec<Option<Rc<Page>>>,
}

/// The number of pages that lookups keep in memory: 8 MiB with pages of 4 KiB.
const CACHED_PAGES: usize = 2048;

/// One result of a walk for its caller: a row (key and value), or a page whose rows are lost.
pub type Found<'a> = Result<(&'a [u8], Value<'a>)>;

/// A walk through a tree.
struct Walk<'w, E> {
    tree: Tree,
    used: &'w mut PageSet,
    each: &'w mut dyn FnMut(Found<'_>) -> Result<(), E>,
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    rows: u64,
    is_whole: bool,
    /// The value on overflow pages that was read last.
    overflow: Vec<u8>,
}

impl Pages {
    /// The pages that `meta` counts, and that are in the file.
    pub fn new(file: File, meta: &Meta) -> io::Result<Self> {
        let in_file = file.metadata()?.len() / meta.page_bytes as u64;
        Ok(Self { file, page_bytes: meta.page_bytes, count: in_file.min(meta.last_page.saturating_add(1)) })
    }

    /// A set without pages, except the two meta pages.
    pub fn empty_set(&self) -> PageSet {
        let mut set = PageSet(vec![0; (self.count / 64 + 1) as usize]);
        set.add(0);
        set.add(1);
        set
    }

    /// Gives each row of a tree to `each`, in the order of the keys, and each damaged page. Every page is added to `used`.
    ///
    /// # Errors
    /// Only those of `each`.
    pub fn walk<E>(&self, tree: Tree, used: &mut PageSet, each: &mut dyn FnMut(Found<'_>) -> Result<(), E>) -> Result<(), E> {
        let (branch_pages, leaf_pages, overflow_pages, rows) = (0, 0, 0, 0);
        let overflow = Vec::new();
        let mut walk = Walk { tree, used, each, branch_pages, leaf_pages, overflow_pages, rows, is_whole: true, overflow };
        if tree.root != NO_PAGE {
            self.walk_page(&mut walk, tree.root, 1, None, None)?;
        }
        let counted = (walk.branch_pages, walk.leaf_pages, walk.overflow_pages, walk.rows);
        if walk.is_whole && counted != (tree.branch_pages, tree.leaf_pages, tree.overflow_pages, tree.rows) {
            let root = if tree.root == NO_PAGE { 0 } else { tree.root };
            each(bad(root, "is the root of a table that counts its pages or rows wrongly"))?;
        }
        Ok(())
    }

    /// Walks through one page and the pages below it. Their keys are `from` or higher, and below `to`.
    fn walk_page<E>(
        &self,
        walk: &mut Walk<'_, E>,
        number: u64,
        level: u16,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
    ) -> Result<(), E> {
        let page = match self.claim(walk.used, number, 1).and_then(|()| self.read_page(walk.tree, number, level, from, to)) {
            Ok(page) => page,
            Err(bad) => {
                walk.is_whole = false;
                return (walk.each)(Err(bad));
            }
        };
        if page.is_branch {
            walk.branch_pages += 1;
            for index in 0..page.len() {
                let first = if index == 0 { from } else { Some(page.key(index)) };
                let end = if index + 1 < page.len() { Some(page.key(index + 1)) } else { to };
                self.walk_page(walk, page.child(index), level + 1, first, end)?;
            }
            return Ok(());
        }
        walk.leaf_pages += 1;
        for index in 0..page.len() {
            walk.rows += 1;
            let is_tree = page.flags(index) & flag::TREE != 0;
            let read = self.read_value(&page, index, &mut walk.overflow, Some(walk.used));
            match read {
                Ok(pages) => {
                    walk.overflow_pages += pages;
                    let bytes = if pages == 0 { page.value(index) } else { &walk.overflow };
                    (walk.each)(Ok((page.key(index), Value { bytes, is_tree, page: number })))?;
                }
                Err(bad) => {
                    walk.is_whole = false;
                    (walk.each)(Err(bad))?;
                }
            }
        }
        Ok(())
    }

    /// Finds the leaf pages of all tables with these flags, without their trees: also pages of earlier states that were not used
    /// again. They are in the order of their first keys.
    pub fn find_leaves(&self, flags: u16) -> Vec<u64> {
        let first_key = |page| {
            let checked = self.read_bytes(page).and_then(|bytes| Page::check(bytes, page, Tree::of_leaf(flags, page), 1));
            checked.ok().map(|checked| (if flags & INTEGER_KEY == 0 { 0 } else { u64_at(checked.key(0), 0) }, page))
        };
        let mut leaves: Vec<_> = (0..self.count).filter_map(first_key).collect();
        leaves.sort_unstable();
        leaves.into_iter().map(|(_, page)| page).collect()
    }

    /// Gives each row of a leaf page whose value can be read to `each`.
    ///
    /// # Errors
    /// Only those of `each`.
    pub fn read_leaf<E>(&self, flags: u16, number: u64, each: &mut impl FnMut(&[u8], &[u8]) -> Result<(), E>) -> Result<(), E> {
        let Ok(page) = self.read_page(Tree::of_leaf(flags, number), number, 1, None, None) else { return Ok(()) };
        let mut overflow = Vec::new();
        for index in 0..page.len() {
            match self.read_value(&page, index, &mut overflow, None) {
                Ok(0) => each(page.key(index), page.value(index))?,
                Ok(_) => each(page.key(index), &overflow)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Gives each page that is neither in `used` nor in `free` to `each`.
    pub fn unaccounted(&self, used: &PageSet, free: &PageSet) -> impl Iterator<Item = u64> {
        (0..self.count).filter(|&page| !used.has(page) && !free.has(page))
    }

    /// Adds the pages that one row of the tree of free pages names to `free`. No page may be in `used` or twice in `free`.
    pub fn add_free(&self, page: u64, value: &[u8], used: &PageSet, free: &mut PageSet) -> Result<()> {
        // The first number counts the others. They are in descending order.
        let count = if value.len() >= 8 { u64_at(value, 0) } else { u64::MAX };
        if !value.len().is_multiple_of(8) || count >= value.len() as u64 / 8 {
            return bad(page, "has a list of free pages of the wrong size");
        }
        for at in (1..=count as usize).map(|index| index * 8) {
            let number = u64_at(value, at);
            let follows = at == 8 || number < u64_at(value, at - 8);
            if !follows || number >= self.count || used.has(number) || !free.add(number) {
                return bad(page, format!("lists page {number} as free, but this page is in use, free twice or not in the file"));
            }
        }
        Ok(())
    }

    /// Adds pages to a set. None of them may be in it.
    fn claim(&self, used: &mut PageSet, first: u64, count: u64) -> Result<()> {
        if first.checked_add(count).is_none_or(|end| end > self.count) {
            return bad(first, "is in use, but is not in the file");
        }
        match (first..first + count).find(|&page| !used.add(page)) {
            Some(page) => bad(page, "is used twice"),
            None => Ok(()),
        }
    }

    /// Reads and checks a page at this level of a tree. The keys must be `from` or higher, and below `to`.
    fn read_page(&self, tree: Tree, number: u64, level: u16, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Page> {
        let page = Page::check(self.read_bytes(number)?, number, tree, level)?;
        let first = usize::from(page.is_branch);
        let (lowest, highest) = (page.key(first), page.key(page.len() - 1));
        if from.is_some_and(|from| tree.compare(lowest, from).is_lt()) || to.is_some_and(|to| tree.compare(highest, to).is_ge()) {
            return bad(number, "has keys that belong on another page");
        }
        Ok(page)
    }

    fn read_bytes(&self, number: u64) -> Result<Box<[u8]>> {
        if number >= self.count {
            return bad(number, "is in use, but is not in the file");
        }
        let mut bytes = vec![0; self.page_bytes].into_boxed_slice();
        read_at(&self.file, &mut bytes, number, number * self.page_bytes as u64)?;
        Ok(bytes)
    }

    /// Reads the value of a row into `value`, if it is on overflow pages. Returns their number, 0 if it is not. The pages are
    /// added to `used`.
    fn read_value(&self, page: &Page, index: usize, value: &mut Vec<u8>, used: Option<&mut PageSet>) -> Result<u64> {
        if page.flags(index) & flag::OVERFLOW == 0 {
            return Ok(0);
        }
        let first = u64_at(page.value(index), 0);
        let bytes = page.value_bytes(index);
        let needs = (HEADER_BYTES + bytes).div_ceil(self.page_bytes) as u64;
        let mut header = [0; HEADER_BYTES];
        if first >= self.count {
            return bad(page.number, format!("points to page {first}, which is not in the file"));
        }
        let at = first * self.page_bytes as u64;
        read_at(&self.file, &mut header, first, at)?;
        // A shorter value that replaces a longer one keeps its pages.
        let pages = u64::from(u32_at(&header, 12));
        if u64_at(&header, 0) != first || u16_at(&header, 10) != kind::OVERFLOW || pages < needs {
            return bad(first, "should be an overflow page of the right size");
        }
        match used {
            Some(used) => self.claim(used, first, pages)?,
            None if first + pages > self.count => return bad(first, "is in use, but is not in the file"),
            None => {}
        }
        value.resize(bytes, 0);
        read_at(&self.file, value, first, at + HEADER_BYTES as u64)?;
        Ok(pages)
    }
}

impl Lookup {
    pub fn new(pages: Rc<Pages>) -> Self {
        Self { pages, cache: vec![None; CACHED_PAGES] }
    }

    /// The row with the highest key that is at most `key`: key and value.
    pub fn at_or_before(&mut self, tree: Tree, key: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        if tree.root == NO_PAGE {
            return Ok(None);
        }
        let (mut number, mut level) = (tree.root, 1);
        loop {
            let page = self.cached_page(tree, number, level)?;
            let at_most = page.count_up_to(key, &tree);
            if page.is_branch {
                (number, level) = (page.child(at_most - 1), level + 1);
                continue;
            }
            let Some(index) = at_most.checked_sub(1) else { return Ok(None) };
            let mut value = Vec::new();
            if self.pages.read_value(&page, index, &mut value, None)? == 0 {
                value.extend_from_slice(page.value(index));
            }
            return Ok(Some((page.key(index).to_vec(), value)));
        }
    }

    /// The value of a row, or `None` if the table has no row with this key.
    pub fn get(&mut self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.at_or_before(tree, key)?.filter(|(found, _)| found == key).map(|(_, value)| value))
    }

    fn cached_page(&mut self, tree: Tree, number: u64, level: u16) -> Result<Rc<Page>> {
        let slot = (number % CACHED_PAGES as u64) as usize;
        if let Some(page) = self.cache[slot].as_ref().filter(|page| page.number == number) {
            return Ok(Rc::clone(page));
        }
        let page = Rc::new(Page::check(self.pages.read_bytes(number)?, number, tree, level)?);
        self.cache[slot] = Some(Rc::clone(&page));
        Ok(page)
    }
}

/// A page whose structure was checked: all accesses to it stay inside of it.
struct Page {
    number: u64,
    bytes: Box<[u8]>,
    is_branch: bool,
}

impl Page {
    /// Checks a page at this level of a tree.
    fn check(bytes: Box<[u8]>, number: u64, tree: Tree, level: u16) -> Result<Self> {
        if u64_at(&bytes, 0) != number {
            return bad(number, "has the number of another page");
        }
        if tree.depth > DEPTH_MAX {
            return bad(number, "is the root of a table with too many levels");
        }
        let expected = if level < tree.depth { kind::BRANCH } else { kind::LEAF };
        if u16_at(&bytes, 10) != expected || level > tree.depth {
            return bad(number, "is of the wrong kind");
        }
        let page = Self { number, bytes, is_branch: expected == kind::BRANCH };
        page.check_nodes()?;
        page.check_keys(&tree)?;
        Ok(page)
    }

    /// Checks that the nodes fill the page from its upper bound to its end.
    fn check_nodes(&self) -> Result<()> {
        let (lower, upper, size) = (self.lower(), usize::from(u16_at(&self.bytes, 14)), self.bytes.len());
        let is_short = lower < HEADER_BYTES + 2 + 2 * usize::from(self.is_branch);
        if !lower.is_multiple_of(2) || is_short || upper < lower || upper > size {
            return bad(self.number, "has impossible bounds");
        }
        let mut nodes = Vec::with_capacity(self.len());
        for index in 0..self.len() {
            let at = self.place(index);
            if at < upper || !at.is_multiple_of(2) || at + NODE_BYTES > size {
                return bad(self.number, "has a row outside of its bounds");
            }
            nodes.push((at, self.node_bytes(index)));
        }
        nodes.sort_unstable();
        let mut end = upper;
        for (at, bytes) in nodes {
            if at != end || bytes > size - at {
                return bad(self.number, "has rows that overlap, or gaps between them");
            }
            end = at + bytes;
        }
        if end == size { Ok(()) } else { bad(self.number, "has rows that do not fill it") }
    }

    /// Checks the sizes and the order of the keys, and the flags of the nodes.
    fn check_keys(&self, tree: &Tree) -> Result<()> {
        // The first key of a branch page is not used.
        let first = usize::from(self.is_branch);
        for index in first..self.len() {
            let (key, flags) = (self.key(index), self.flags(index));
            if !(1..=KEY_BYTES_MAX).contains(&key.len()) || (tree.flags & INTEGER_KEY != 0 && key.len() != 8) {
                return bad(self.number, "has a key of the wrong size");
            }
            if !self.is_branch && !matches!(flags, 0 | flag::OVERFLOW | flag::TREE) {
                return bad(self.number, "has a row with impossible flags");
            }
            if flags == flag::TREE && !self.is_branch && self.value_bytes(index) != Tree::BYTES {
                return bad(self.number, "has a table of the wrong size");
            }
            if index > first && tree.compare(self.key(index - 1), key).is_ge() {
                return bad(self.number, "has keys in the wrong order");
            }
        }
        Ok(())
    }

    fn lower(&self) -> usize {
        usize::from(u16_at(&self.bytes, 12))
    }

    /// The number of nodes.
    fn len(&self) -> usize {
        (self.lower() - HEADER_BYTES) / 2
    }

    /// The place of a node in the page.
    fn place(&self, index: usize) -> usize {
        usize::from(u16_at(&self.bytes, HEADER_BYTES + 2 * index))
    }

    fn flags(&self, index: usize) -> u16 {
        u16_at(&self.bytes, self.place(index) + 4)
    }

    fn key_bytes(&self, index: usize) -> usize {
        usize::from(u16_at(&self.bytes, self.place(index) + 6))
    }

    fn key(&self, index: usize) -> &[u8] {
        let at = self.place(index) + NODE_BYTES;
        &self.bytes[at..at + self.key_bytes(index)]
    }

    /// The size of the whole value, also if it is on overflow pages.
    fn value_bytes(&self, index: usize) -> usize {
        u32_at(&self.bytes, self.place(index)) as usize
    }

    /// The size of the part of the value that is on this page.
    fn inline_bytes(&self, index: usize) -> usize {
        match self.is_branch {
            true => 0,
            false if self.flags(index) & flag::OVERFLOW != 0 => PAGE_NUMBER_BYTES,
            false => self.value_bytes(index),
        }
    }

    fn node_bytes(&self, index: usize) -> usize {
        (NODE_BYTES + self.key_bytes(index)).saturating_add(self.inline_bytes(index)).next_multiple_of(2)
    }

    fn value(&self, index: usize) -> &[u8] {
        let at = self.place(index) + NODE_BYTES + self.key_bytes(index);
        &self.bytes[at..at + self.inline_bytes(index)]
    }

    /// The page below this branch page.
    fn child(&self, index: usize) -> u64 {
        let at = self.place(index);
        u64::from(u32_at(&self.bytes, at)) | u64::from(u16_at(&self.bytes, at + 4)) << 32
    }

    /// The number of keys that are at most `key`. The first key of a branch page stands for all lower keys.
    fn count_up_to(&self, key: &[u8], tree: &Tree) -> usize {
        let (mut low, mut high) = (usize::from(self.is_branch), self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if tree.compare(self.key(middle), key).is_le() { low = middle + 1 } else { high = middle }
        }
        low
    }
}
