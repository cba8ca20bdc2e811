#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace archon {

/// The whole file as text; InputError that names it and the reason.
std::string read_text_file(const std::string& path);

/// Writes beside, syncs, renames into place; RuntimeFailure with the reason.
void write_text_file(const std::string& path, const std::string& text);

/// Makes the folder (and its parents) and proves that files can be made in it; InputError if not.
void ensure_writable_folder(const std::string& path);

/// Names of what is in a folder; none where nothing has that name. InputError when it cannot
/// be listed, as where its name is that of a link which leads nowhere.
std::vector<std::string> list_folder(const std::string& path);

/// InputError when no file can be made at `path`: no such folder, no permission, or something that
/// is no regular file has the name.
void validate_new_file(const std::string& path);

/// InputError when the file `output` of `option` is one of `inputs`, or lies in one that is a folder:
/// what is written would replace what is read, or be read with it.
void validate_no_input(const char* option, const std::string& output,
                       const std::vector<std::string>& inputs);

/// Puts a file's data, or a folder's entries, on the disk (fsync); RuntimeFailure if it cannot.
void sync_path(const std::string& path);

/// Removes a file or a folder with all that is in it, if there is one; RuntimeFailure if it cannot.
void remove_tree(const std::string& path);

/// The same for a folder whose presence says that it is complete: its name goes first.
void hide_and_remove_tree(const std::string& path);

/// Renames a written, synced folder into place, in the same parent. One that has the name already
/// is replaced in a single step where the system can, and removed (a warning says when that fails).
/// RuntimeFailure with the reason.
void replace_folder(const std::string& written, const std::string& path);

/// Reads `count` bytes at `offset` of an open file in as many calls as it takes. Returns how many
/// there were, fewer where the file ends, or -1 with the reason in errno.
int64_t read_at(int descriptor, void* bytes, std::size_t count, int64_t offset);

/// The folder that holds `path`; "." for a plain name.
std::string parent_folder(const std::string& path);

}  // namespace archon
