//! What is known of an instance.

use std::num::NonZeroU64;

/// One instance as one source describes it. What the source does not say, or says with an empty text or a zero, is
/// `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The instance's uuid.
    pub uuid: Option<Box<str>>,
    /// nova's `instance_name_template` name, `instance-0000000a`; not the display name.
    pub name: Option<Box<str>>,
    /// The compute host it is on.
    pub host: Option<Box<str>>,
    /// The image it was started from; none where it boots from a volume.
    pub image_ref: Option<Box<str>>,
    /// The kernel image.
    pub kernel_id: Option<Box<str>>,
    /// The ramdisk image.
    pub ramdisk_id: Option<Box<str>>,
    /// nova's `vm_state`.
    pub vm_state: Option<Box<str>>,
    /// nova's `task_state`.
    pub task_state: Option<Box<str>>,
    /// The flavor's swap in MiB.
    pub swap_mb: Option<u64>,
    /// The flavor's ephemeral disk in GiB.
    pub ephemeral_gb: Option<u64>,
    /// What the source does not tell, which is other than telling that there is none.
    pub lacks: Lacks,
}

/// Which facts of an instance its source does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// The image.
    pub image: bool,
    /// The kernel and the ramdisk image, or one of them.
    pub kernel: bool,
    /// The flavor's swap.
    pub swap: bool,
    /// The flavor's ephemeral disk.
    pub ephemeral: bool,
}

/// A text that a [`Row`] may have; its fields say what each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of Row say it")]
pub enum Text {
    Uuid,
    Name,
    Host,
    ImageRef,
    KernelId,
    RamdiskId,
    VmState,
    TaskState,
}

/// One instance as all sources together describe it: the rows that are about it, never none.
///
/// Where sources contradict each other every value stands, so that both uses keep their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    first: Packed,
    more: Vec<Packed>,
}

impl Instance {
    /// An instance that one source describes.
    pub fn new(row: &Row) -> Self {
        Self { first: Packed::new(row), more: Vec::new() }
    }

    /// How to name it to people and programs: its uuid, or its name where no source knows a uuid.
    pub fn id(&self) -> &str {
        self.first_text(Text::Uuid).or_else(|| self.first_text(Text::Name)).unwrap_or_default()
    }

    /// The first value that its rows give for a field.
    pub(super) fn first_text(&self, which: Text) -> Option<&str> {
        self.rows().find_map(|row| row.text(which))
    }

    /// Every different value that its rows give for a field.
    pub fn texts(&self, which: Text) -> impl Iterator<Item = &str> {
        distinct(self.rows().filter_map(move |row| row.text(which)))
    }

    /// Every different size of swap in MiB that its rows give, zero left out.
    pub fn swap_mb(&self) -> impl Iterator<Item = u64> {
        distinct(self.rows().filter_map(|row| row.swap_mb).map(NonZeroU64::get))
    }

    /// Every different size of ephemeral disk in GiB that its rows give, zero left out.
    pub fn ephemeral_gb(&self) -> impl Iterator<Item = u64> {
        distinct(self.rows().filter_map(|row| row.ephemeral_gb).map(NonZeroU64::get))
    }

    /// The names that its directory under the instances path may have: name and uuid.
    pub fn directory_names(&self) -> impl Iterator<Item = &str> {
        self.texts(Text::Uuid).chain(self.texts(Text::Name))
    }

    /// Whether no row tells that fact.
    pub(super) fn lacks(&self, fact: impl Fn(&Lacks) -> bool) -> bool {
        self.rows().all(|row| fact(&row.lacks))
    }

    /// Takes over what another source says of the same instance.
    pub(super) fn absorb(&mut self, other: Self) {
        self.more.push(other.first);
        self.more.extend(other.more);
    }

    fn rows(&self) -> impl Iterator<Item = &Packed> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// The first row, as it was.
    #[cfg(test)]
    pub(super) fn row(&self) -> Row {
        let text = |which| self.first.text(which).map(Into::into);
        Row {
            uuid: text(Text::Uuid),
            name: text(Text::Name),
            host: text(Text::Host),
            image_ref: text(Text::ImageRef),
            kernel_id: text(Text::KernelId),
            ramdisk_id: text(Text::RamdiskId),
            vm_state: text(Text::VmState),
            task_state: text(Text::TaskState),
            swap_mb: self.first.swap_mb.map(NonZeroU64::get),
            ephemeral_gb: self.first.ephemeral_gb.map(NonZeroU64::get),
            lacks: self.first.lacks,
        }
    }
}

fn distinct<T: PartialEq + Copy>(values: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    // Nearly always there is only one, and that needs no memory.
    let mut first: Option<T> = None;
    let mut others: Vec<T> = Vec::new();
    values.filter(move |value| match first {
        None => {
            first = Some(*value);
            true
        }
        Some(first) if first == *value || others.contains(value) => false,
        Some(_) => {
            others.push(*value);
            true
        }
    })
}

/// A row in little memory, since an inventory of 200 MB holds up to two million: its texts are one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packed {
    /// All texts, in the order of [`Text`].
    texts: Box<str>,
    /// Where each ends, in bytes.
    ends: [u32; 8],
    swap_mb: Option<NonZeroU64>,
    ephemeral_gb: Option<NonZeroU64>,
    lacks: Lacks,
}

impl Packed {
    fn new(row: &Row) -> Self {
        let fields = [
            &row.uuid,
            &row.name,
            &row.host,
            &row.image_ref,
            &row.kernel_id,
            &row.ramdisk_id,
            &row.vm_state,
            &row.task_state,
        ];
        let mut texts =
            String::with_capacity(fields.iter().filter_map(|it| it.as_deref()).map(str::len).sum());
        let ends = fields.map(|field| {
            texts.push_str(field.as_deref().unwrap_or_default());
            // The loader takes no text that is anywhere near 4 GiB.
            u32::try_from(texts.len()).unwrap_or(u32::MAX)
        });
        Self {
            texts: texts.into_boxed_str(),
            ends,
            swap_mb: row.swap_mb.and_then(NonZeroU64::new),
            ephemeral_gb: row.ephemeral_gb.and_then(NonZeroU64::new),
            lacks: row.lacks,
        }
    }

    fn text(&self, which: Text) -> Option<&str> {
        let index = which as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.texts.get(start as usize..self.ends[index] as usize).filter(|it| !it.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_packed_without_loss() {
        let text = |text: &str| Some(text.into());
        let full = Row {
            uuid: text("u"),
            name: text("name"),
            host: text("hôte"),
            image_ref: text("i"),
            kernel_id: text("k"),
            ramdisk_id: text("r"),
            vm_state: text("active"),
            task_state: text("t"),
            swap_mb: Some(u64::MAX),
            ephemeral_gb: Some(1),
            lacks: Lacks { image: true, kernel: false, swap: true, ephemeral: false },
        };
        let sparse = Row { host: text("h"), task_state: text("t"), ..Row::default() };
        for row in [full, sparse, Row::default()] {
            assert_eq!(Instance::new(&row).row(), row);
        }
    }
}
