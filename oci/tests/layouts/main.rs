//! Promise: a converted image holds exactly the files that its layers make together, layer by layer, in a sound file
//! system, the same bytes every time; and whatever is wrong with a layout is said by name.

mod convert;
mod disk;
mod entries;
mod hostile;
mod inspect;
mod layout;
