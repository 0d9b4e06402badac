# Writes HEADER with the commit of the sources in SOURCE, unless it says so already: of their own
# checkout, or of the archive that they came in. A repository around them, or one that the environment
# names, has nothing to say.
set(commit unknown)
set(modified false)
find_program(GIT git)
if(GIT AND EXISTS ${SOURCE}/.git)
  foreach(variable DIR WORK_TREE INDEX_FILE OBJECT_DIRECTORY COMMON_DIR NAMESPACE)
    unset(ENV{GIT_${variable}})
  endforeach()
  set(git ${GIT} -c core.fsmonitor=false --git-dir=${SOURCE}/.git --work-tree=${SOURCE})
  execute_process(COMMAND ${git} rev-parse --verify HEAD OUTPUT_VARIABLE head RESULT_VARIABLE status
                  ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(status EQUAL 0)
    set(commit ${head})
    execute_process(COMMAND ${git} -C ${SOURCE} status --porcelain --untracked-files=no
                    OUTPUT_VARIABLE changes ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(changes)
      set(modified true)
    endif()
  endif()
elseif(EXISTS ${SOURCE}/.git_archival.txt)
  file(STRINGS ${SOURCE}/.git_archival.txt node REGEX "^node: [0-9a-f]+$")
  if(node)
    string(SUBSTRING "${node}" 6 -1 commit)
  endif()
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT [[
#pragma once
#define SIDECHANNEL_GIT_COMMIT "@commit@"
#define SIDECHANNEL_GIT_MODIFIED @modified@
]] @ONLY)
