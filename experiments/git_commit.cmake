# Writes HEADER with the commit of the checkout SOURCE, unless it says so already.
find_program(GIT git)
set(commit unknown)
set(modified false)
if(GIT)
  execute_process(COMMAND ${GIT} -C ${SOURCE} rev-parse HEAD
                  OUTPUT_VARIABLE head RESULT_VARIABLE status ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(status EQUAL 0)
    set(commit ${head})
    execute_process(COMMAND ${GIT} -C ${SOURCE} status --porcelain --untracked-files=no
                    OUTPUT_VARIABLE changes ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(changes)
      set(modified true)
    endif()
  endif()
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT [[
#pragma once
#define SIDECHANNEL_GIT_COMMIT "@commit@"
#define SIDECHANNEL_GIT_MODIFIED @modified@
]] @ONLY)
